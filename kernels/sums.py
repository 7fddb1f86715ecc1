"""The contract of every backend: which sums there are, what they mean and in which order they stand.

For a tile of N operands (tensors of E elements) and P pairs (i, j) of them, x = operand i, y = operand j:

    self_sums[k, n] = (E, Σ|x|, Σx, Σx², max|x|, #(x not finite))
    pair_sums[k, p] = (Σ|x-y|, Σ(x-y)², Σxy, max|x-y|, #(x ≠ y))

All float64, each within 1e-12 relative of exact arithmetic on the stored values. NaN and infinity propagate as IEEE 754
says and never into another tensor; NaN differs from everything, itself included, -0.0 equals 0.0. E = 0 gives zeros.

A tensor is cut into chunks of CHUNK elements from its first element. Each chunk's partial sums stand in their own slot
and slots are added in order, so the result is the same to the last bit for any number of threads, batch or split.
"""

SELF_SUMS = ("elements", "sum_abs", "sum", "sum_sq", "max_abs", "nonfinite")
PAIR_SUMS = ("sum_abs_diff", "sum_sq_diff", "dot", "max_abs_diff", "differing")

CHUNK = 65536  # elements; two float32 operands are 512 KiB, half of a common second-level cache
