"""Files mapped or read into buffers: the bytes are the tensor's, and a file that is wrong or changes is refused."""

import ctypes
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from weighbridge.engine import reading
from weighbridge.engine.checkpoint import TensorRef
from weighbridge.engine.errors import OptionError, ReadError
from weighbridge.engine.plan import Placed
from weighbridge.engine.reading import Files, Staging

from support.raw_files import write


class InMemory:
    """What a TensorRef without a file needs: an address."""

    def __init__(self, raw):
        self.raw = raw

    def data_ptr(self):
        return self.raw.ctypes.data


def numbers(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, count, np.uint8)


def staging(files, rows):
    """A Staging of K rows of references to U8 tensors."""
    sizes = np.array([[ref.nbytes for ref in row] for row in rows], np.int64)
    return Staging(files, Placed.of(rows), sizes, np.ones(sizes.shape[1], np.int64))


def bytes_of(staged, items):
    """For each item the bytes of each operand that `read` put in place."""
    moved, addresses = staged.read(np.array(items, np.int64))
    return [
        [ctypes.string_at(int(address) + start, length) for address in addresses[tensor]]
        for tensor, start, length, _ in moved.tolist()
    ]


@pytest.mark.parametrize("gap", [0, 1, 100, 65536, 65537, 300_000])
def test_spans(tmp_path, monkeypatch, gap):
    """Neighbours are read in one go, what lies apart is not, and each address is right either way."""
    tensors = [numbers(size, size) for size in (1000, 1, 63, 64, 65, 20_000)]
    refs = write(tmp_path / "a", [("U8", raw) for raw in tensors], gaps=gap)
    spans = []
    fill = reading._fill
    monkeypatch.setattr(reading, "_fill", lambda *args: (spans.append(args[1].size), fill(*args)))
    with Files("pread") as files:
        staged = staging(files, [[ref] for ref in refs])
        assert staged.needed
        found = bytes_of(staged, [(k, 0, raw.size, k) for k, raw in enumerate(tensors)])
    assert [row[0] for row in found] == [raw.tobytes() for raw in tensors]
    assert len(spans) == (1 if gap <= 65536 else len(tensors))


def test_gaps_do_not_fill_memory(tmp_path, monkeypatch):
    """Many tiny tensors between large ones that are not read: the buffer stays near what is."""
    monkeypatch.setattr(reading, "_GAPS_BYTES", 100_000)
    tensors = [numbers(4, k) for k in range(200)]
    refs = write(tmp_path / "a", [("U8", raw) for raw in tensors], gaps=5000)
    with Files("pread") as files:
        staged = staging(files, [[ref] for ref in refs])
        found = bytes_of(staged, [(k, 0, 4, k) for k in range(200)])
        assert staged._buffer(0).size < 150_000
    assert [row[0] for row in found] == [raw.tobytes() for raw in tensors]


def test_several_files_in_any_order(tmp_path):
    a = write(tmp_path / "a", [("U8", numbers(500, k)) for k in range(4)])
    b = write(tmp_path / "b", [("U8", numbers(500, 10 + k)) for k in range(4)], gaps=9)
    rows = [[a[3], b[0]], [b[1], a[0]], [a[1], a[1]], [b[3], b[2]]]
    with Files("pread") as files:
        found = bytes_of(staging(files, rows), [(k, 100, 200, 0) for k in (2, 0, 3, 1)])
    for row, k in zip(found, (2, 0, 3, 1), strict=True):
        for piece, ref in zip(row, rows[k], strict=True):
            assert piece == Path(ref.file).read_bytes()[ref.offset + 100 : ref.offset + 300]


def test_parts_of_one_tensor(tmp_path):
    raw = numbers(10_000)
    (ref,) = write(tmp_path / "a", [("U8", raw)])
    with Files("pread") as files:
        found = bytes_of(
            staging(files, [[ref]]), [(0, 4000, 100, 0), (0, 0, 50, 1), (0, 9990, 10, 2), (0, 4000, 100, 3)]
        )
    assert [row[0] for row in found] == [
        raw[start : start + length].tobytes() for start, length in ((4000, 100), (0, 50), (9990, 10), (4000, 100))
    ]


def test_wide_elements_and_mixed_item_sizes(tmp_path):
    doubles, bytes_ = np.arange(300.0), numbers(300)
    a = write(tmp_path / "a", [("F64", doubles.view(np.uint8))])
    b = write(tmp_path / "b", [("U8", bytes_)])
    with Files("pread") as files:
        staged = Staging(files, Placed.of([[a[0], b[0]]]), np.array([[2400, 300]]), np.array([8, 1]))
        _, addresses = staged.read(np.array([[0, 100, 50, 0]]))
        assert ctypes.string_at(int(addresses[0, 0]) + 800, 400) == doubles[100:150].tobytes()
        assert ctypes.string_at(int(addresses[0, 1]) + 100, 50) == bytes_[100:150].tobytes()


def test_mapped_staged_and_in_memory_side_by_side(tmp_path, monkeypatch):
    """With "auto" one file is cold, the other is not, and a third operand lies in no file."""
    cold = write(tmp_path / "cold", [("U8", numbers(700, 1))])[0]
    warm = write(tmp_path / "warm", [("U8", numbers(700, 2))])[0]
    memory = InMemory(numbers(700, 3))
    held = TensorRef("m", "U8", (700,), 700, "nowhere", None, memory)
    monkeypatch.setattr(reading, "_is_cold", lambda fd: os.readlink(f"/proc/self/fd/{fd}").endswith("cold"))
    with Files("auto") as files:
        staged = staging(files, [[cold, warm, held], [held, cold, warm]])
        assert staged.needed
        assert [files.file(ref.file).staged for ref in (cold, warm)] == [True, False]
        found = bytes_of(staged, [(0, 10, 600, 0), (1, 0, 700, 1)])
    wanted = [numbers(700, seed).tobytes() for seed in (1, 2, 3)]
    assert found[0] == [each[10:610] for each in wanted]
    assert found[1] == [wanted[2], wanted[0], wanted[1]]


def test_a_thread_keeps_its_buffer_and_threads_share_none(tmp_path):
    refs = write(tmp_path / "a", [("U8", numbers(5000, k)) for k in range(8)])
    with Files("pread") as files:
        staged = staging(files, [[ref] for ref in refs])
        first = staged.read(np.array([[0, 0, 5000, 0]]))[1][0, 0]
        again = staged.read(np.array([[0, 0, 5000, 0]]))[1][0, 0]
        assert first == again
        places, wrong = [], []
        together = threading.Barrier(4)

        def work(own):
            for round_ in range(50):
                k = (own + round_) % 8
                together.wait(30)
                address = int(staged.read(np.array([[k, 0, 5000, 0]]))[1][0, 0])
                together.wait(30)  # everybody has read: had two one buffer, one of them sees the other's bytes
                if ctypes.string_at(address, 5000) != numbers(5000, k).tobytes():
                    wrong.append((own, k))
                places.append((own, address))

        threads = [threading.Thread(target=work, args=(own,)) for own in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert not wrong and len(places) == 200
        assert len({address for _, address in places}) == 4


def test_maps_need_no_buffers(tmp_path):
    refs = write(tmp_path / "a", [("U8", numbers(100, k)) for k in range(2)])
    with Files("map") as files:
        staged = staging(files, [[ref] for ref in refs])
        assert not staged.needed
        assert [ctypes.string_at(int(row[0]), 100) for row in staged.addresses] == [
            numbers(100, k).tobytes() for k in (0, 1)
        ]


def test_empty_tensors_open_no_file(tmp_path):
    for io in reading.IO_MODES:
        with Files(io) as files:
            assert not staging(files, [[TensorRef("e", "U8", (0,), 0, str(tmp_path / "missing"), 5)]]).needed
            files.check_unchanged()


def test_files_are_opened_once_and_closed(tmp_path):
    refs = write(tmp_path / "a", [("U8", numbers(10, k)) for k in range(3)])
    with Files("pread") as files:
        descriptors = {files.file(ref.file).descriptor for ref in refs}
        assert len(descriptors) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors.pop())


def test_way_of_reading_is_named():
    with pytest.raises(OptionError, match='there is no way of reading "mmap"; choose from auto, map, pread'):
        Files("mmap")


@pytest.mark.parametrize("io", ["map", "pread"])
def test_short_file(tmp_path, io):
    (ref,) = write(tmp_path / "a", [("U8", numbers(1000))])
    os.truncate(ref.file, 600)
    with Files(io) as files, pytest.raises(ReadError) as caught:
        staging(files, [[ref]])
    assert str(caught.value) == (
        f'{ref.file} has 600 bytes but tensor "t0" ends at byte 1,011: the file was cut short since it was opened; '
        f"write it again."
    )


@pytest.mark.parametrize("io", ["map", "pread"])
def test_empty_file(tmp_path, io):
    (tmp_path / "a").touch()
    with Files(io) as files, pytest.raises(ReadError, match='a has 0 bytes but tensor "t" ends at byte 4'):
        staging(files, [[TensorRef("t", "F32", (1,), 4, str(tmp_path / "a"), 0)]])


@pytest.mark.parametrize(("name", "reason"), [("missing", "No such file or directory"), ("folder", "Is a directory")])
def test_no_file(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    ref = TensorRef("t", "U8", (4,), 4, str(tmp_path / name), 0)
    with Files("pread") as files, pytest.raises(ReadError, match=reason):
        staging(files, [[ref]]).read(np.array([[0, 0, 4, 0]]))


def test_cut_short_while_it_is_read(tmp_path):
    (ref,) = write(tmp_path / "a", [("U8", numbers(1000))])
    with Files("pread") as files:
        staged = staging(files, [[ref]])
        os.truncate(ref.file, 600)
        with pytest.raises(
            ReadError, match=r"a ends at byte 600 where 1,016 were there .* cut short while it was being"
        ):
            staged.read(np.array([[0, 0, 1000, 0]]))
        with pytest.raises(ReadError, match=r"changed while it was being read \(1,016 bytes before, 600 after\)"):
            files.check_unchanged()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: path.open("ab").write(b"x"), r"changed while it was being read \(15 bytes before, 16 after\)"),
        (lambda path: os.utime(path, ns=(1, 1)), r"changed while it was being read \(15 bytes before, 15 after\)"),
        (lambda path: path.unlink(), "vanished while it was being read: No such file or directory"),
    ],
)
def test_check_unchanged(tmp_path, change, sentence):
    path = tmp_path / "a"
    path.write_bytes(bytes(15))
    with Files("map") as files:
        files.file(str(path))
        files.check_unchanged()
        change(path)
        with pytest.raises(ReadError, match=sentence):
            files.check_unchanged()


def test_failing_device(tmp_path, monkeypatch):
    (ref,) = write(tmp_path / "a", [("U8", numbers(10))])

    def broken(*_):
        raise OSError(5, "Input/output error")

    with Files("pread") as files:
        staged = staging(files, [[ref]])
        monkeypatch.setattr(os, "preadv", broken)
        with pytest.raises(ReadError, match="a cannot be read at byte 11: Input/output error"):
            staged.read(np.array([[0, 0, 10, 0]]))


def test_short_reads_are_continued(tmp_path, monkeypatch):
    (ref,) = write(tmp_path / "a", [("U8", numbers(1000))])
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, rooms, offset: whole(fd, [rooms[0][:7]], offset))
    with Files("pread") as files:
        assert bytes_of(staging(files, [[ref]]), [(0, 0, 1000, 0)]) == [[numbers(1000).tobytes()]]


@pytest.mark.parametrize("available", [1, 1 << 62])
def test_pages_are_let_go_where_they_would_fill_memory(tmp_path, monkeypatch, available):
    (ref,) = write(tmp_path / "a", [("U8", numbers(1000))])
    advised = []
    monkeypatch.setattr(reading, "_available_bytes", lambda: available)
    monkeypatch.setattr(os, "posix_fadvise", lambda *args: advised.append(args[1:]), raising=False)
    with Files("pread") as files:
        bytes_of(staging(files, [[ref]]), [(0, 0, 1000, 0)])
    assert advised == ([(11, 1000, os.POSIX_FADV_DONTNEED)] if available == 1 else [])


def places():
    shm = Path("/dev/shm")
    return [shm] if shm.is_dir() and os.access(shm, os.W_OK) else []


@pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
def test_a_file_just_written_is_not_cold(tmp_path, size):
    for folder in (tmp_path, *places()):
        path = folder / f"weighbridge-test-{os.getpid()}"
        try:
            path.write_bytes(bytes(size))
            with path.open("rb") as file:
                assert not reading._is_cold(file.fileno())
                assert reading._on_network(os.fstat(file.fileno()).st_dev) in (False, True)
        finally:
            path.unlink()


@pytest.mark.parametrize(("missing", "cold"), [(32, True), (17, True), (16, False), (0, False)])
def test_cold_is_most_pages_missing(tmp_path, monkeypatch, missing, cold):
    (tmp_path / "a").write_bytes(bytes(100_000))
    answers = iter([True] * missing + [False] * 32)

    def no_wait(*_):
        if next(answers):
            raise BlockingIOError
        return 1

    monkeypatch.setattr(os, "preadv", no_wait)
    monkeypatch.setattr(os, "RWF_NOWAIT", 8, raising=False)
    with (tmp_path / "a").open("rb") as file:
        assert reading._is_cold(file.fileno()) is cold


def test_a_file_system_that_cannot_tell_is_not_cold(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(100))

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "preadv", unsupported)
    with (tmp_path / "a").open("rb") as file:
        assert not reading._is_cold(file.fileno())
        monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
        assert not reading._is_cold(file.fileno())


MOUNTS = """22 1 0:21 / /proc rw - proc proc rw
23 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
24 1 0:44 / /mnt/share rw shared:2 master:3 - nfs4 server:/share rw
25 1 0:45 / /mnt/me\\040too rw - fuse.sshfs me@there:/ rw
26 1 0:46 / /mnt/disk rw - fuseblk /dev/sdb1 rw
27 1 0:47 / /dev/shm rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("major", "minor", "network"),
    [(254, 1, False), (0, 44, True), (0, 45, True), (0, 46, False), (0, 47, False), (9, 9, False)],
)
def test_network_file_systems_are_known(tmp_path, monkeypatch, major, minor, network):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(reading, "Path", lambda _: tmp_path / "mountinfo")
    assert reading._on_network(os.makedev(major, minor)) is network


def test_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "Path", lambda _: tmp_path / "missing")
    assert reading._on_network(os.makedev(0, 44)) is False
    assert reading._available_bytes() == 1 << 62


def test_available_bytes_are_plausible():
    assert reading._available_bytes() > 1 << 20
