"""Pages of mapped files that cannot be had: noticed and replaced, where the system would kill the process.

Where a file is cut short while it is mapped, or its device fails, touching a page that is no longer there raises
SIGBUS, and the process dies. Python cannot handle that signal: its handlers run between instructions of Python, never
between two of the kernel that touched the page. So the handler here is machine code, made by LLVM. It looks the address
up in a table of guarded ranges; the rest of a range that it finds is replaced by pages of zeros with one call of
`mmap`, the place is noted, and the kernel goes on. What it computes from then on is worth nothing, which `failed` tells
and `reading.Files` makes a ReadError of.

A fault outside the guarded ranges is none of ours: whatever handled SIGBUS before (faulthandler, or the system's own
end of the process) is put back, and the instruction that faulted runs into it again. The handler calls `mmap`,
`sigaction` and `raise` only, which POSIX or Linux allow there. It is in place while anything is guarded, no longer.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
import sys
import threading
from functools import cache
from typing import Any

import numpy as np

from ..kernels.room import require_room

__all__ = ["SLOTS", "failed", "guard", "release"]

SLOTS = 16384
"""How many ranges can be guarded at a time: more files than a process may usually have open. The handler looks through
them one after the other, some 10 µs if all are in use, and once for each file that fails."""

_START, _END, _FAULTS, _PLACE = range(4)

# Kept for as long as the process lives: a handler that was put in place may be remembered by another.
_table = np.zeros((SLOTS, 4), np.int64)
_lock = threading.Lock()
_guarded = 0
_free: list[int] = list(range(SLOTS - 1, -1, -1))


class _SigAction(ctypes.Structure):
    """`struct sigaction` of glibc and musl on 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_LLVM_BYTES = 8 << 20  # making the handler takes 1 MB more; where LLVM gets no memory it ends the process
_previous = _SigAction()
_SA_SIGINFO, _SA_ONSTACK = 4, 0x08000000

# In `siginfo_t` of 64-bit Linux: how the signal came about (above 0: by the processor), and the address.
_CODE, _ADDRESS = 8, 16

_HANDLER = """
define void @on_sigbus(i32 %signal, ptr %info, ptr %context) {{
entry:
  %code.at = getelementptr i8, ptr %info, i64 {code}
  %code = load i32, ptr %code.at
  %fault.at = getelementptr i8, ptr %info, i64 {address}
  %fault = load i64, ptr %fault.at
  %sent = icmp sle i32 %code, 0
  br i1 %sent, label %foreign, label %look
look:
  %slot = phi i64 [ 0, %entry ], [ %next, %further ]
  %row.number = mul i64 %slot, 32
  %row.address = add i64 %row.number, {table}
  %row = inttoptr i64 %row.address to ptr
  %start = load volatile i64, ptr %row
  %end.at = getelementptr i64, ptr %row, i64 1
  %end = load volatile i64, ptr %end.at
  %above = icmp uge i64 %fault, %start
  %below = icmp ult i64 %fault, %end
  %within = and i1 %above, %below
  br i1 %within, label %replace, label %further
further:
  %next = add i64 %slot, 1
  %last = icmp eq i64 %next, {slots}
  br i1 %last, label %foreign, label %look
replace:
  %page = and i64 %fault, -{page}
  %left = sub i64 %end, %page
  %there = inttoptr i64 %page to ptr
  %mmap = inttoptr i64 {mmap} to ptr
  %zeros = call ptr %mmap(ptr %there, i64 %left, i32 1, i32 50, i32 -1, i64 0)
  %replaced = icmp eq ptr %zeros, %there
  br i1 %replaced, label %note, label %foreign
note:
  %place.at = getelementptr i64, ptr %row, i64 3
  %place = sub i64 %fault, %start
  store volatile i64 %place, ptr %place.at
  %faults.at = getelementptr i64, ptr %row, i64 2
  %before = atomicrmw add ptr %faults.at, i64 1 seq_cst
  ret void
foreign:
  %previous = inttoptr i64 {previous} to ptr
  %sigaction = inttoptr i64 {sigaction} to ptr
  %restored = call i32 %sigaction(i32 %signal, ptr %previous, ptr null)
  store volatile i64 0, ptr %previous
  br i1 %sent, label %resend, label %done
resend:
  %raise = inttoptr i64 {raise_} to ptr
  %raised = call i32 %raise(i32 %signal)
  ret void
done:
  ret void
}}
"""


def guard(address: int, nbytes: int) -> int | None:
    """Guard a range that a file is mapped to.

    Args:
        address: the first byte, the beginning of a page.
        nbytes: the size of the map; its last page counts as a whole.
    Returns:
        A slot for `failed` and `release`, or None where nothing can be guarded: another system than 64-bit Linux, or
        SLOTS ranges are guarded already.
    Raises:
        MemoryError: there is no room to make the handler.
    """
    global _guarded
    with _lock:
        handler = _handler()
        if handler is None or not _free:
            return None
        if not _guarded:
            _install(handler)
        _guarded += 1
        slot = _free.pop()
        _table[slot] = (address, 0, 0, 0)
        _table[slot, _END] = address + -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE  # last: only now it is a range
        return slot


def failed(slot: int) -> int | None:
    """How far into a guarded range the page lies that could not be had, in bytes, or None where none was missing."""
    return int(_table[slot, _PLACE]) if _table[slot, _FAULTS] else None


def release(slot: int) -> None:
    """Guard a range no longer; to be called before it is unmapped."""
    global _guarded
    with _lock:
        _table[slot, _END] = 0
        _free.append(slot)
        _guarded -= 1
        if not _guarded:
            _uninstall()


def _install(handler: int) -> None:
    action = _SigAction(handler=handler, flags=_SA_SIGINFO | _SA_ONSTACK)
    _libc().sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(_previous))


def _uninstall() -> None:
    """Put back what was there before, unless another handler has taken our place meanwhile."""
    now = _SigAction()
    _libc().sigaction(signal.SIGBUS, None, ctypes.byref(now))
    if now.handler == _handler():
        _libc().sigaction(signal.SIGBUS, ctypes.byref(_previous), None)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _handler() -> int | None:
    """The address of the machine code, made on first use, in 3 ms; None on other systems."""
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    require_room(_LLVM_BYTES, "LLVM")
    import llvmlite.binding as llvm

    def where(function: Any) -> int:
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    libc = _libc()
    text = _HANDLER.format(
        code=_CODE, address=_ADDRESS, table=_table.ctypes.data, slots=SLOTS, page=mmap.PAGESIZE, mmap=where(libc.mmap),
        sigaction=where(libc.sigaction), raise_=where(libc["raise"]), previous=ctypes.addressof(_previous),
    )  # fmt: skip
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), target.create_target_machine(opt=0, jit=True))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address("on_sigbus"))


_engines: list[Any] = []  # kept: their memory holds the code
