"""Cosines of task vectors are right to 1e-9, also where one vector is a million times as long as the other."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge
from weighbridge.engine.task_vectors import certainty

from support import families

SIZES = (1e-8, 1e-4, 1e-4, 30.0, 0.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base and five that were moved from it by very different lengths, the last not at all."""
    folder = tmp_path_factory.mktemp("tasks")
    torch.manual_seed(3)
    base = {f"layer.{n}.weight": torch.randn(50, 1400).double() for n in range(2)} | {"x.bias": torch.randn(7).double()}
    shared = {name: torch.randn(t.shape).double() for name, t in base.items()}
    paths = [folder / "base.safetensors"]
    save_file(base, paths[0])
    for number, size in enumerate(SIZES):
        moved = {n: t + size * (shared[n] + torch.randn(t.shape).double()) for n, t in base.items()}
        paths.append(folder / f"{number}.safetensors")
        save_file(moved, paths[-1])
    return paths


def truth(files, names=None):
    """(N, N) mean and pooled cosine of differences in float64."""
    tensors = [load_file(path) for path in files]
    names = names or list(tensors[0])
    moved = [{n: (t[n].double() - tensors[0][n].double()).flatten() for n in names} for t in tensors]
    cosine = lambda x, y: float(x @ y / (x.norm() * y.norm()))  # noqa: E731 -- NaN for a zero vector
    each = np.array([[[cosine(a[n], b[n]) for n in names] for b in moved] for a in moved])
    whole = [torch.cat([m[n] for n in names]) for m in moved]
    return each.mean(axis=2), np.array([[cosine(x, y) for y in whole] for x in whole])


def test_right_to_a_billionth(files):
    found = weighbridge.matrix(files[1:], base=files[0])
    assert found.base == found.labels[0] == str(files[0])
    mean, pooled = truth(files)
    assert np.isnan(found["task_cosine"][0]).all() and np.isnan(found["task_cosine"][-1]).all()
    np.testing.assert_allclose(found.mean("task_cosine"), mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["task_cosine"], pooled, rtol=0, atol=1e-9)
    assert np.isnan(pooled[0]).all() and 0.4 < pooled[1, 2] < 0.6
    # 1e-8 against 1e-4 and 30, 1e-4 against 30: the three sums do not tell, so those tensors were read again.
    assert found.tasks.reread == 3 * 5
    assert found.bytes_read == found.sums.bytes_read + found.tasks.bytes_read > found.sums.bytes_read


def test_three_sums_alone_would_not_do(files):
    """What is read again had to be: from the sums alone the worst is off by more than a billionth."""
    sums = weighbridge.matrix(files).sums
    place = {tuple(pair): p for p, pair in enumerate(sums.pairs.tolist())}
    d_ib, d_jb, d_ij = (sums.sums[0, place[pair], 1] for pair in ((0, 1), (0, 4), (1, 4)))
    assert certainty(d_ib, d_jb, d_ij) > 1e-9
    direct = (d_ib + d_jb - d_ij) / 2 / np.sqrt(d_ib * d_jb)
    assert abs(direct - truth(files, [sums.tensors[0].name])[1][1, 4]) > 1e-9


def test_the_bound_holds_where_it_is_trusted(files):
    sums = weighbridge.matrix([files[0], files[2], files[3]]).sums
    for k, tensor in enumerate(sums.tensors):
        d_ib, d_jb, d_ij = sums.sums[k, :, 1]
        cosine = (d_ib + d_jb - d_ij) / 2 / np.sqrt(d_ib * d_jb)
        wanted = truth([files[0], files[2], files[3]], [tensor.name])[1][1, 2]
        assert abs(cosine - wanted) <= certainty(d_ib, d_jb, d_ij) + 1e-14 < 1e-11


def test_groups_and_a_base_among_the_checkpoints(files):
    found = weighbridge.matrix(files, base=files[0], metrics="task_cosine,delta")
    assert len(found.labels) == len(files) and found.metrics == ("task_cosine", "delta")
    layers = found.groups("layer")
    for layer, name in ((0, "layer.0.weight"), (1, "layer.1.weight"), (None, "x.bias")):
        np.testing.assert_allclose(layers[layer].pooled["task_cosine"], truth(files, [name])[1], rtol=0, atol=1e-9)


def test_lengths_and_dtypes_that_differ(tmp_path):
    """Embeddings of three lengths: over the rows that all three have, whatever two of them share."""
    paths = families.write(tmp_path)
    found = weighbridge.matrix(paths[:6], base=paths[0])
    name = "embeddings.word_embeddings.weight"
    base, one, two = (load_file(paths[n])[name].double()[:30].flatten() for n in (0, 1, 4))
    wanted = float(torch.cosine_similarity(one - base, two - base, dim=0))
    assert found.groups("tensor")[name].pooled["task_cosine"][1, 4] == pytest.approx(wanted, abs=1e-9)
    assert found.tasks.reread == 1
    # NaN in a tensor of one is NaN in what it is part of, and in nothing else.
    assert np.isnan(found["task_cosine"][4, 1:4]).all() and not np.isnan(found["task_cosine"][1:4, 1:4]).any()
    kinds = found.groups("kind")
    assert not np.isnan(kinds["normal_weight"].pooled["task_cosine"][4, 1:4]).any()


def test_equal_checkpoints_and_64_bit_integers(tmp_path):
    big = 2**53
    values = ([big, 5, -7], [big + 1, 6, -7], [big + 3, 7, -7], [big + 1, 6, -7])
    paths = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for path, ints in zip(paths, values, strict=True):
        save_file({"a.weight": torch.tensor(ints)}, path)
    cosine = weighbridge.matrix(paths, base=paths[0])["task_cosine"]
    assert cosine[1, 2] == pytest.approx((1 * 3 + 1 * 2) / np.sqrt(2 * 13), abs=1e-9)
    assert cosine[1, 3] == 1
