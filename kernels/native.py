"""Machine code of the jitted functions: compiled by Numba once for a processor, kept on disk, loaded without Numba.

Numba's own cache would do, but reaching it costs the import of Numba and, at the first call, of all its NumPy support:
0.55 s measured, against 0.06 s for comparing two checkpoints of BERT's size. The functions here use integers and
addresses only, no reference counting and no exceptions, so their optimised LLVM module is self-contained; llvmlite, on
which Numba stands, turns it into an object file and later loads that in 0.04 s.

The cache is `$WEIGHBRIDGE_CACHE_DIR`, else `$XDG_CACHE_HOME/weighbridge`, else `~/.cache/weighbridge`. A file's name
holds the sums that the code is for, unless it is for all, and a digest of the kernels' source, of llvmlite's version
and of the processor's name and features, so that none of them can change behind its back. Code is loaded only from a
folder that belongs to this user and that no one else may write to, and only if its checksum is right; in every other
case it is compiled again, in memory if need be.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import stat
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from .wanted import Wanted

__all__ = ["cache_folder", "function", "is_cached"]

_NOT_COMPILED = (
    "__init__.py", "certainty.py", "cpu.py", "device.py", "native.py", "processors.py", "reference.py",
    "room.py", "threads.py",
)  # fmt: skip
_ARGUMENTS = {"star_f32": 2, "star_f64": 2, "pairs_f32": 2, "pairs_f64": 2, "gather": 12}
_SYMBOL = "weighbridge_{}"
_ALIGNED = "alignstack(64)"  # an attribute of functions

_KEPT = 48  # files of the cache: eight versions, or machines that share a home, of six functions each

_lock = threading.Lock()
_engines: list[llvm.ExecutionEngine] = []  # kept: their memory holds the code


def function(name: str, wanted: Wanted = Wanted.ALL) -> Callable[..., None]:
    """A compiled function, to be called with integers; the interpreter lock is released while it runs.

    Args:
        name: one of `tile.FUNCTIONS`.
        wanted: the sums that a walk over any pairs takes: each set of them is machine code of its own, compiled when it
            is first asked for. All others take all.
    """
    return _function(name, wanted)


@cache
def _function(name: str, wanted: Wanted) -> Callable[..., None]:
    with _lock:
        return _load(name, _object_code(name, wanted))


def is_cached(name: str, wanted: Wanted = Wanted.ALL) -> bool:
    """Whether a function's machine code is on disk, so that `function` need not compile it."""
    return _read(_path(name, wanted)) is not None


def cache_folder() -> Path:
    """Where machine code is kept between processes."""
    if named := os.environ.get("WEIGHBRIDGE_CACHE_DIR"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weighbridge"
    except RuntimeError:  # no HOME and no entry for this user: containers with an arbitrary user id
        return Path(tempfile.gettempdir()) / f"weighbridge-{os.geteuid()}"


def _path(name: str, wanted: Wanted) -> Path:
    variant = "" if wanted == Wanted.ALL else f"-{int(wanted):02x}"
    return cache_folder() / "kernels" / f"{name}{variant}-{_fingerprint()}.o"


def _object_code(name: str, wanted: Wanted = Wanted.ALL) -> bytes:
    path = _path(name, wanted)
    kept = _read(path)
    if kept is not None:
        return kept
    code = _compile(name, wanted)
    _write(path, code)
    return code


@cache
def _fingerprint() -> str:
    digest = hashlib.sha256(f"{llvmlite.__version__} {llvm.get_process_triple()} {llvm.get_host_cpu_name()} ".encode())
    digest.update(llvm.get_host_cpu_features().flatten().encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        if source.name not in _NOT_COMPILED:
            digest.update(source.read_bytes())
    return digest.hexdigest()[:32]


@cache
def _machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )


def _compile(name: str, wanted: Wanted = Wanted.ALL) -> bytes:
    """The object file of one function, under the symbol `weighbridge_NAME`. Takes seconds, and imports Numba."""
    from numba import cfunc

    from .accumulate import COMPILED
    from .tile import FUNCTIONS

    made_for, signature = FUNCTIONS[name]
    compiled = cfunc(signature, **COMPILED)(made_for(wanted))
    # Without it, vectors that registers do not hold stand on the stack across two cache lines, three times out of four.
    aligned = re.sub(r"^(define .*) \{$", rf"\1 {_ALIGNED} {{", compiled.inspect_llvm(), flags=re.MULTILINE)
    module = llvm.parse_assembly(aligned)
    for each in module.functions:
        if not each.is_declaration:
            each.linkage = llvm.Linkage.internal
    # Numba's C wrapper reports exceptions through its own runtime. These functions raise none, so a plainer wrapper
    # takes its place; what is no longer called goes, and with it the last tie to Numba.
    called = module.get_function(compiled.native_name.removeprefix("cfunc."))
    called.linkage = llvm.Linkage.external
    module.link_in(llvm.parse_assembly(_wrapper(name, called)))
    called.linkage = llvm.Linkage.internal
    machine = _machine()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    foreign = [f.name for f in module.functions if f.is_declaration and not f.name.startswith(("llvm.", "mem"))]
    code = bytes(machine.emit_object(module))
    if b"__extendhfsf2" in code:
        foreign.append("__extendhfsf2 (this processor does not convert float16: it lacks F16C)")
    if foreign:
        raise RuntimeError(f"the machine code of {name} needs {', '.join(foreign)}")
    return code


def _wrapper(name: str, called: llvm.ValueRef) -> str:
    """LLVM code of a function of integers alone that calls a function in Numba's convention and ignores its status."""
    kinds = [str(argument.type) for argument in called.arguments][2:]  # behind where to put result and exception
    taken = ", ".join(f"i64 %{n}" for n in range(len(kinds)))
    casts = [f"  %p{n} = inttoptr i64 %{n} to ptr" for n, kind in enumerate(kinds) if kind == "ptr"]
    given = ", ".join(f"ptr %p{n}" if kind == "ptr" else f"i64 %{n}" for n, kind in enumerate(kinds))
    lines = [
        f'declare i32 @"{called.name}"(ptr, ptr, {", ".join(kinds)})',
        f"define void @{_SYMBOL.format(name)}({taken}) {_ALIGNED} {{",
        "entry:",
        "  %result = alloca ptr",
        "  %exception = alloca ptr",
        *casts,
        f'  %status = call i32 @"{called.name}"(ptr %result, ptr %exception, {given})',
        "  ret void",
        "}",
    ]
    return "\n".join(lines)


def _load(name: str, code: bytes) -> Callable[..., None]:
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    address = engine.get_function_address(_SYMBOL.format(name))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * _ARGUMENTS[name])(address)


def _read(path: Path) -> bytes | None:
    """A file's code, or None if there is none to be trusted."""
    try:
        if not _is_trusted(path.parent):
            return None
        data = path.read_bytes()
    except OSError:
        return None
    code, checksum = data[:-32], data[-32:]
    return code if hashlib.sha256(code).digest() == checksum else None


def _is_trusted(folder: Path) -> bool:
    """Whether a folder is this user's and no one else may write to it."""
    status = folder.lstat()
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not writable


def _write(path: Path, code: bytes) -> None:
    """Keep code for the next process; a cache that cannot be written is no trouble."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_trusted(path.parent):
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.write(code + hashlib.sha256(code).digest())
                file.close()
                os.replace(file.name, path)
                _prune(path.parent)
            except OSError:
                os.unlink(file.name)
    except OSError:
        pass


def _prune(folder: Path) -> None:
    """Take away the code that was written longest ago: every version of the kernels and of llvmlite leaves some."""
    found = sorted(folder.glob("*.o"), key=lambda path: path.stat().st_mtime_ns)
    for path in found[:-_KEPT]:
        path.unlink(missing_ok=True)
