"""Sizes that the kernels, their launcher and the tests share; plain numbers, so that nobody imports Triton for them."""

from ..decoders import DECODERS
from ..sums import CHUNK

VECTOR_BYTES = 16  # what a thread loads at a time: the widest load there is
THREADS = 128  # of a program: 4 warps, each thread one lane of every sum
STRIP = 32768  # elements a program walks: 256 a lane, over which its end is spread; a power of two a chunk
STRIPS = CHUNK // STRIP  # of a chunk, each with slots; a whole chunk is one of narrow dtypes, `dtypes.strip_of`
LANE = STRIP // THREADS  # elements of a lane, of every dtype of which sums round

# What stands for a dtype in kernels that are told at run time which one of its size it is. Float32 stays itself: the
# others of four bytes are integers that it does not hold.
ANY = {code: code if code == "F32" else f"ANY{8 * decoder.itemsize}" for code, decoder in DECODERS.items()}

# Slots of a strip, the same for operands and pairs: Σ|x| or Σ|d|, Σx² or Σd², Σx or Σxy as high part, low part and
# error bound, max|x| or max|d|, #nonfinite or #(x ≠ y).
SLOTS = 7

GATHER_LANES = 32  # chunks that a row of the second step adds side by side: each thread of a warp is a lane
GATHER_ROWS = THREADS // GATHER_LANES  # of a program
FAN = 4 * GATHER_LANES  # chunks of a row: two levels are enough for 2**30 elements, three for 2**37
