"""Sizes that compiled code and its callers share.

They stand apart so that a caller who finds the machine code in the cache need not import Numba to know them.
"""

from .sums import CHUNK

BLOCK = 2048  # elements: two float32 operands are 16 KiB, half of a 32 KiB first-level cache, and lanes stay short
BLOCKS = CHUNK // BLOCK  # of a chunk
LANES = 8  # float64 elements of one AVX-512 register; narrower processors split it, the order of additions stays
WIDTH = 2 * LANES  # elements decoded at a time; blocks are padded to a multiple

SELF_OUT = 6  # float64 that a block's self sums take: Σ|x|, Σx, its compensation, Σx², max|x|, min|x|
PAIR_OUT = 4  # float64 that a block's pair sums take: Σ|d|, Σd², max|d|, #(x ≠ y)
DD_OUT = 3 * LANES  # float64 of a compensated sum: high parts, low parts, magnitudes, lane by lane

PAIR_GROUP = 4  # pairs of one operand whose sums are taken in one loop: 16 vectors of sums, half of the registers
PAIR_SQUARE = 32  # operands a side: 64 blocks of float32 are 512 KiB, half of a common second-level cache

# Slots of a chunk: the contract's sums, with Σx and Σxy as high part, low part and error bound.
SELF_SLOTS = 7  # Σ|x|, Σx high, low, bound, Σx², max|x|, non-finite elements
PAIR_SLOTS = 7  # Σ|d|, Σd², Σxy high, low, bound, max|d|, #(x ≠ y)

# Fixed point: blocks of narrow dtypes as int32 multiples of a power of two.
FIXED_BITS = 27  # |X| < 2**27: sums of a lane then fit, see `fixed.py`
FIXED_GROUP = 8 * WIDTH  # elements between additions to 64-bit lanes; such blocks are padded to a multiple
FIXED_OUT = 8  # int64 that a block's sums take
LIMB_BITS, LIMB_LOW_BITS = 24, 12  # |X| < 2**24 in two limbs, the lower of 12 bits: 16-bit floats, `word_sums.py`
WIDE_LOW_BITS = 14  # ... 16-bit floats of up to FIXED_BITS
LIMB_OUT = 20  # int64 that a pair of blocks' sums take
BYTE_LIMB, BYTE_WINDOW = 7, 14  # 8-bit floats: |X| < 2**14 in two limbs, see `byte_sums.py`
BYTE_BELOW, BYTE_BITS = 8, 24  # what is left out there: in units 2**8 times smaller, |X| < 2**24, see `byte_walk.py`
BYTE_OUT = 13  # int64 that the sums of a pair of blocks take
BYTE_PATTERNS = 128  # of magnitudes
NO_UNIT = 1 << 20  # no unit of a pair: its blocks do not fit
ZERO_UNIT = 1 << 19  # the unit of a block without a non-zero element: it fits any

# Rows of the table that describes operands: dtype, itemsize, whether it is used where it lies, significant bits,
# whether it is an integer dtype; then for fixed point: 0 no, 1 float, 2 integer; bits of its mantissa (of an integer's
# magnitude); bias of its exponent; first bit pattern of a magnitude that is not finite.
OPERAND_ROWS = 9

TASK_WORDS = 13  # int64 that a walk is called with, see `task.py`

# Working memory of a thread, in float64: the end of a tensor padded to a group of 2-byte elements, sums of a block ...
TAIL_SLOTS = FIXED_GROUP * 2 // 8
WORK_BYTES = 4 + BYTE_OUT + BLOCK // 64 + 2 * BYTE_PATTERNS // 8 + BYTE_PATTERNS  # see `byte_walk.py`
WORK_LIMBS = max(LIMB_OUT, WORK_BYTES)
WORK_SLOTS = TAIL_SLOTS + DD_OUT + PAIR_GROUP * (PAIR_OUT + 1) + 3 * FIXED_OUT + BLOCKS * (SELF_OUT + 3) + WORK_LIMBS
WORK_OPERAND = SELF_OUT + 7  # ... and as many for every operand
