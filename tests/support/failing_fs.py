"""A file system whose reads fail or stall on request: FUSE, spoken directly, so that nothing needs to be installed.

    python failing_fs.py MOUNTPOINT SOURCE MODE_FILE

It shows the files of SOURCE, read-only. MODE_FILE says "ok", "fail N" (reads of byte N and later return EIO) or "stall"
(nothing is answered until it says something else). Mounting needs the right to mount, which root has.
"""

import ctypes
import errno
import os
import select
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _RELEASE, _INIT = 1, 2, 3, 14, 15, 18, 26
_INTERRUPT, _BATCH_FORGET, _DESTROY = 36, 42, 38
_ROOT = 1


def can_mount() -> bool:
    """Whether this process may mount one."""
    return os.path.exists("/dev/fuse") and hasattr(os, "geteuid") and os.geteuid() == 0 and _mount_works()


def _mount_works() -> bool:
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


@contextmanager
def mounted(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Mount `folder`/source; gives the mount point and the file that says what reads do."""
    point, mode = folder / "mount", folder / "mode"
    point.mkdir()
    (folder / "source").mkdir(exist_ok=True)
    mode.write_text("ok")
    server = subprocess.Popen(
        [sys.executable, __file__, str(point), str(folder / "source"), str(mode)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None and server.stdout.readline() == "mounted\n"
        os.stat(point)  # the kernel's greeting is answered before the first request is
        yield point, mode
    finally:
        mode.write_text("ok")
        subprocess.run(["umount", "-l", str(point)], check=False)
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


class Server:
    """Answers the kernel, one request after the other, so that a stall stalls everything, as a lost server does."""

    def __init__(self, point: str, source: str, mode: str) -> None:
        self.source, self.mode = Path(source), Path(mode)
        self.nodes: dict[int, Path] = {_ROOT: self.source}
        self.device = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if libc.mount(b"failing", os.fsencode(point), b"fuse", 6, options):
            raise OSError(ctypes.get_errno(), "mount")

    def run(self) -> None:
        """Until it is unmounted."""
        while True:
            # A request that was taken cannot be given up by who waits for it, not even killed; one that was not, can:
            # that is what a network file system without its server looks like.
            while not select.select([self.device], [], [], 1)[0] or self.mode.read_text() == "stall":
                time.sleep(0.02)
            try:
                request = os.read(self.device, 1 << 20)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
            _, opcode, unique, node = struct.unpack_from("IIQQ", request)
            if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                continue
            try:
                answer, code = self.answer(opcode, node, request[40:]), 0
            except OSError as error:
                answer, code = b"", error.errno or errno.EIO
            with suppress(OSError):  # who asked has been killed meanwhile
                os.write(self.device, struct.pack("IiQ", 16 + len(answer), -code, unique) + answer)

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """The reply to a request.

        Raises:
            OSError: that is the reply.
        """
        if opcode == _INIT:
            return struct.pack("IIIIHHIIHHI28x", 7, 31, 1 << 17, 0, 12, 9, 1 << 17, 1, 32, 0, 0)
        if opcode == _LOOKUP:
            path = self.nodes[node] / body.rstrip(b"\0").decode()
            found = os.stat(path)
            self.nodes[found.st_ino] = path
            return struct.pack("QQQQII", found.st_ino, 0, 0, 0, 0, 0) + _attributes(found)
        if opcode == _GETATTR:
            return struct.pack("QII", 0, 0, 0) + _attributes(os.stat(self.nodes[node]))
        if opcode == _OPEN:
            return struct.pack("QII", 0, 0, 0)
        if opcode == _READ:
            _, offset, size = struct.unpack_from("QQI", body)
            return self._read(self.nodes[node], offset, size)
        if opcode in (_RELEASE, _DESTROY):
            return b""
        # Above all to FLUSH, which is then not asked again: the kernel would wait for it when it closes a file.
        raise OSError(errno.ENOSYS, "not here")

    def _read(self, path: Path, offset: int, size: int) -> bytes:
        mode = self.mode.read_text()
        if mode.startswith("fail") and offset + size > int(mode.split()[1]):
            raise OSError(errno.EIO, "planted")
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _attributes(found: os.stat_result) -> bytes:
    seconds = [int(each) for each in (found.st_atime, found.st_mtime, found.st_ctime)]
    rest = [each % 10**9 for each in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)]
    mode = stat.S_IFMT(found.st_mode) | 0o555
    numbers = (found.st_ino, found.st_size, -(-found.st_size // 512), *seconds, *rest, mode, 1, 0, 0, 0, 4096, 0)
    return struct.pack("QQQQQQIIIIIIIIII", *numbers)


if __name__ == "__main__":
    server = Server(*sys.argv[1:])
    print("mounted", flush=True)
    server.run()
