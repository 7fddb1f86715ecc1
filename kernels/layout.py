"""Sizes that compiled code and its callers share.

They stand apart so that a caller who finds the machine code in the cache need not import Numba to know them.
"""

BLOCK = 1024  # elements: two float32 operands are 8 KiB, a quarter of a 32 KiB first-level cache, and lanes stay short
LANES = 8  # float64 elements of one AVX-512 register; narrower processors split it, the order of additions stays
WIDTH = 2 * LANES  # elements decoded at a time; blocks are padded to a multiple

SELF_OUT = 6  # float64 that a block's self sums take: Σ|x|, Σx, its compensation, Σx², max|x|, smallest |x| > 0
PAIR_OUT = 4  # float64 that a block's pair sums take: Σ|d|, Σd², max|d|, #(x ≠ y)
DD_OUT = 3 * LANES  # float64 of a compensated sum: high parts, low parts, magnitudes, lane by lane
WORK_SLOTS = WIDTH + DD_OUT + PAIR_OUT  # float64 of working memory of a thread, before N times SELF_OUT + 1

# Slots of a chunk: the contract's sums, with Σx and Σxy as high part, low part and error bound.
SELF_SLOTS = 7  # Σ|x|, Σx high, low, bound, Σx², max|x|, non-finite elements
PAIR_SLOTS = 7  # Σ|d|, Σd², Σxy high, low, bound, max|d|, #(x ≠ y)

# Layouts of the pair list: any, one base (operand 0) against all others in order, and the same with one other.
ANY, STAR, TWO = 0, 1, 2
