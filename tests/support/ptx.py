"""The kernels' lines of PTX for Triton's interpreter, which has none: their text is read, and done in NumPy.

The meaning of the instructions is that of NVIDIA's Parallel Thread Execution ISA, as far as the kernels need it.
Threads lie along the last axis of tensors, 32 a warp. What tensor cores add up must come out exactly, or a test fails:
in which order they add, and how they round meanwhile, is not said there.
"""

import re

import numpy as np
import torch

ONE = {"f16": 0x3C00, "bf16": 0x3F80}


def install():
    """From now on the interpreter has the instructions below; and GPUs that it stands for have them."""
    from triton.runtime.interpreter import InterpreterBuilder

    from weighbridge.kernels.gpu import tile

    InterpreterBuilder.create_inline_asm = _inline_asm
    tile.packs_halves = lambda device: True


class _Call:
    """What the interpreter takes for a call of inline assembly."""

    def __init__(self, results):
        self.results = results

    def get_result(self, number):
        return self.results[number]


def _inline_asm(builder, asm, constraints, values, types, is_pure, pack):
    from triton.runtime.interpreter import TensorHandle

    assert pack == 1 and is_pure
    kinds = [each.lstrip("=&") for each in constraints.split(",")]
    assert len(kinds) == len(types) + len(values)
    registers = {
        f"${len(types) + n}": value.data.view(np.uint32) if kind in "rf" else value.data
        for n, (value, kind) in enumerate(zip(values, kinds[len(types) :], strict=True))
    }
    registers["%laneid"] = np.broadcast_to(
        np.arange(values[0].data.shape[-1], dtype=np.uint32) % 32, values[0].data.shape
    )
    _run(asm, registers)
    scalars = [each.scalar for each in types]
    dtypes = {"int32": np.int32, "fp32": np.float32, "fp64": np.float64}
    return _Call(
        [TensorHandle(registers[f"${n}"].view(dtypes[scalar.name]), scalar) for n, scalar in enumerate(scalars)]
    )


def _run(asm, registers):
    body = asm.strip()
    if body.startswith("{"):
        body = body[1:-1]
    for statement in body.split(";"):
        operation, _, rest = statement.strip().partition(" ")
        if not operation or operation == ".reg":
            continue
        target, *sources = [_operand(text) for text in re.findall(r"\{[^}]*\}|[^,\s]+", rest)]
        found = _OPERATIONS[operation](*(_value(source, registers) for source in sources))
        for name, value in zip(*((target, found) if isinstance(target, list) else ([target], [found])), strict=True):
            registers[name] = value


def _operand(text):
    return [each.strip() for each in text[1:-1].split(",")] if text.startswith("{") else text


def _value(operand, registers):
    if isinstance(operand, list):
        return [registers[name] for name in operand]
    return registers[operand] if operand in registers else np.uint32(int(operand, 0))


def _moved(x):
    """A number, or both halves of a word."""
    return x if np.ndim(x) == 0 else [np.ascontiguousarray(half) for half in np.moveaxis(_halves(x), -1, 0)]


def _halves(word):
    """Both halves of a word, on a new last axis."""
    return np.ascontiguousarray(word)[..., None].view(np.uint16)


def _word(halves):
    return np.ascontiguousarray(halves).view(np.uint32)[..., 0]


def _numbers(word, kind):
    """Both halves as float64."""
    if kind == "f16":
        return _halves(word).view(np.float16).astype(np.float64)
    return (_halves(word).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _from_e4m3(halfword):
    encoded = torch.from_numpy(np.ascontiguousarray(halfword)[..., None].view(np.uint8))
    return _word(encoded.view(torch.float8_e4m3fn).to(torch.float16).numpy())


def _largest(nan):
    def largest(x, y):
        x, y = _halves(x).view(np.float16), _halves(y).view(np.float16)
        return _word(np.maximum(x, y) if nan else np.fmax(x, y))

    return largest


def _unequal(kind):
    """1 or 0; NaN is unequal to all."""

    def unequal(x, y):
        return _word(np.where(_numbers(x, kind) != _numbers(y, kind), ONE[kind], 0).astype(np.uint16))

    return unequal


def _add_bfloat16(x, y):
    total = (_numbers(x, "bf16") + _numbers(y, "bf16")).astype(np.float32).view(np.uint32)
    assert not (total & 0xFFFF).any(), "rounding is not done here"
    return _word((total >> 16).astype(np.uint16))


def _add_float16(x, y):
    exact = _numbers(x, "f16") + _numbers(y, "f16")
    total = exact.astype(np.float16)
    assert np.array_equal(total, exact), "rounding is not done here"
    return _word(total.view(np.uint16))


def _permuted(x, y, selector):
    """Bytes of two words, each named by four bits; their fourth bit, which spreads a sign, is not done here."""
    assert not selector & 0x8888
    both = np.stack([np.broadcast_to(word, x.shape) for word in (x, y)], axis=-1).view(np.uint8)
    taken = both[..., [selector >> shift & 7 for shift in (0, 4, 8, 12)]]
    return np.ascontiguousarray(taken).view(np.uint32)[..., 0]


def _by_halves(operation):
    return lambda x, y: _word(operation(_halves(np.broadcast_to(x, y.shape)), _halves(y)))


def _multiply(a, b, c):
    """mma.m16n8k16 of each warp. Of thread 4 g + t: a is rows g, g + 8 and columns 2 t, 2 t + 1, then these and 8 more;
    b is column g and such rows; c is rows g, g, g + 8, g + 8 and columns 2 t, 2 t + 1.
    """
    a, b = ([_numbers(word, "f16").reshape(-1, 8, 4, 2) for word in words] for words in (a, b))  # warp, g, t, half
    upper, lower = (np.concatenate([a[n], a[n + 2]], axis=2).reshape(-1, 8, 16) for n in (0, 1))
    left = np.concatenate([upper, lower], axis=1)  # warp, row, 2 t + half
    right = np.concatenate(b, axis=2).reshape(-1, 8, 16).transpose(0, 2, 1)
    shape = c[0].shape
    product = (left @ right).reshape(-1, 2, 8, 4, 2)  # warp, which eight rows, g, t, column
    results = []
    for n, before in enumerate(c):
        exact = product[:, n // 2, :, :, n % 2].reshape(shape) + before.view(np.float32)
        rounded = exact.astype(np.float32)
        assert np.array_equal(rounded, exact, equal_nan=True), "tensor cores may round this one way or the other"
        results.append(rounded.view(np.uint32))
    return results


_OPERATIONS = {
    "abs.f32": lambda x: x & np.uint32(0x7FFFFFFF),
    "abs.f16x2": lambda x: x & np.uint32(0x7FFF7FFF),
    "add.rn.bf16x2": _add_bfloat16,
    "add.rn.f16x2": _add_float16,
    "add.u16x2": lambda x, y: _word(_halves(x) + _halves(np.broadcast_to(y, x.shape))),
    "add.u32": lambda x, y: x + y,
    "and.b32": lambda x, y: x & y,
    "cvt.f64.f16": lambda half: half.view(np.float16).astype(np.float64),
    "cvt.rn.f16x2.e4m3x2": _from_e4m3,
    "max.NaN.f16x2": _largest(nan=True),
    "max.f16x2": _largest(nan=False),
    "max.f32": lambda x, y: np.fmax(x.view(np.float32), y.view(np.float32)).view(np.uint32),
    "max.u16x2": _by_halves(np.maximum),
    "min.u16x2": _by_halves(np.minimum),
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32": _multiply,
    "mov.b32": _moved,
    "mov.u32": lambda x: x,
    "prmt.b32": _permuted,
    "selp.b32": lambda x, y, where: np.where(where, x, y),
    "set.neu.bf16x2.bf16x2": _unequal("bf16"),
    "set.neu.f16x2.f16x2": _unequal("f16"),
    "setp.eq.u32": lambda x, y: x == y,
    "shr.u32": lambda x, y: x >> y,
}
