"""Which end of an edge is the older, and which checkpoint the oldest.

A tree of known edges has a direction on all of them once its root is known. Each root is given the log-likelihood of
what the sums say of the directions that follow from it; three things speak.

*The right angle at the parent.* A step d from parent a to child b knows nothing of a, but for weight decay, which
shortens each tensor by the same share λ: <a, d> = -λ |a|², so over the tensors

    |b|² - |a|² = -λ (|a|² + |b|²) + s |d|²        s = 1 if a is the parent, s = -1 if b is

s is found by least squares over the tensors, weighted by the variance |a|² |d|² / elements that <a, d> has for a random
d. Without the term in λ the norms say nothing: of 76 runs (docs/lineage.md) 45 % made them longer.

*Steps that lean the same way.* What all runs learn is a little alike, so steps from one checkpoint lean together (their
cosine is above 0), and a step on leans the way of the step before: seen from the checkpoint in the middle, parent and
child lean apart.

*What cannot be undone.* A rounded copy comes after what was rounded, a float32 checkpoint that holds values of a
rounded one after that, a merge after its parents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .family import Family
from .graph import Edge, neighbours

__all__ = ["CERTAIN", "lean", "right_angle", "root_probabilities"]

CERTAIN = 20.0
"""The log-likelihood ratio of what cannot be undone."""

# The width of s about 1. Of 48 AdamW runs 23 lie within 0.25 of it; tails are long, with plain gradient descent up to
# hundreds. A Cauchy distribution gives s near ±1 a ratio of up to ln((4 + w²) / w²) = 2.8 and forgets what is far from
# both.
_WIDTH_SQUARED = 0.25

# ln of the likelihood of "leans together" over "leans apart" for each unit of the mean cosine over tensors, which in 98
# pairs was 0.052 with standard deviation 0.069: 2 * 0.052 / 0.069² = 22. What the pairs at one checkpoint say together
# is bounded, for they all share its weights and the run that made it.
_LEAN = 20.0
_LEAN_BOUND = 1.5

_FEWEST_TENSORS = 4


def right_angle(family: Family, a: int, b: int) -> float:
    """ln of the likelihood that a is the parent of b over that b is the parent of a, by the angles with the origin."""
    place = family.place[a, b]
    n, squared = family.elements, family.squared[:, place]
    norm_a, norm_b = family.selfs[:, a, 3], family.selfs[:, b, 3]
    used = family.measured[:, place] & (squared > 0) & (norm_a > 0) & (norm_b > 0)
    if used.sum() < _FEWEST_TENSORS:
        return 0.0
    n, squared, norm_a, norm_b = (values[used] for values in (n, squared, norm_a, norm_b))
    weight = np.sqrt(n / (norm_a * squared))
    sides = np.stack([norm_a + norm_b, squared], axis=1) * weight[:, None]
    scale = np.linalg.norm(sides, axis=0)
    sides, grown = sides / scale, (norm_b - norm_a) * weight
    inverse = np.linalg.pinv(sides.T @ sides)
    fitted = inverse @ (sides.T @ grown)
    # The variance that the residuals have, whatever that is in each tensor (White, Econometrica 48, 1980).
    spread = sides * (grown - sides @ fitted)[:, None]
    variance = float((inverse @ (spread.T @ spread) @ inverse)[1, 1]) / scale[1] ** 2
    s = float(fitted[1] / scale[1])
    width = _WIDTH_SQUARED + variance
    return math.log((width + (s + 1.0) ** 2) / (width + (s - 1.0) ** 2)) if math.isfinite(s * width) else 0.0


def lean(family: Family, middle: int, a: int, b: int) -> float:
    """ln of the likelihood that a and b are both children of the middle over that one of them is its parent."""
    to_a, to_b = (family.squared[:, family.place[middle, end]] for end in (a, b))
    between = family.place[a, b]
    used = (to_a > 0) & (to_b > 0) & family.measured[:, between]
    if not used.any():
        return 0.0
    product = (to_a + to_b - family.squared[:, between])[used] / 2.0
    cosine = float(np.mean(product / np.sqrt(to_a[used] * to_b[used])))
    return min(max(_LEAN * cosine, -_LEAN_BOUND), _LEAN_BOUND)


def root_probabilities(
    edges: Sequence[Edge], certain: Callable[[int, int], float], step: Callable[[int, int], float], pair: Callable
) -> dict[int, float]:
    """How probable each node of one tree is to be its root.

    Moving the root over the edge from u to v turns that edge alone: its own evidence changes sign, and so does that of
    its pairs with the other edges at u and at v.

    Args:
        edges: of one tree.
        certain, step: (u, v) -> ln of the likelihood of u -> v over v -> u, from what cannot be undone and from angles.
        pair: (middle, a, b) -> as `lean`.
    """
    near = neighbours(edges)
    start = min(near)
    score = {start: 0.0}
    queue = [start]
    for u in queue:
        for v in near[u]:
            if v not in score:
                turned = sum(pair(v, u, y) for y in near[v] if y != u), sum(pair(u, v, y) for y in near[u] if y != v)
                bounded = [min(max(value, -_LEAN_BOUND), _LEAN_BOUND) for value in turned]
                score[v] = score[u] - certain(u, v) - step(u, v) + bounded[0] - bounded[1]
                queue.append(v)
    best = max(score.values())
    likelihood = {node: math.exp(value - best) for node, value in score.items()}
    whole = sum(likelihood.values())
    return {node: value / whole for node, value in likelihood.items()}
