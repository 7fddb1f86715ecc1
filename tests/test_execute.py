"""A plan run on files: the sums of `reference`, every byte counted once, and the same bits however it was read."""

import functools
import os

import numpy as np
import pytest

from weighbridge.engine import execute as execution
from weighbridge.engine import plan
from weighbridge.engine.checkpoint import TensorRef
from weighbridge.engine.errors import OptionError, ReadError
from weighbridge.engine.execute import execute
from weighbridge.engine.plan import Joined

from support.kernel_cases import check, exact, nearby, random_tensor, same_bits
from support.raw_files import write

CODES = ["F32", "BF16", "F32", "I8", "F32", "F64", "F32", "F16", "F32", "F32", "BF16", "F32"]
SIZES = [1000, 1000, 7, 70_000, 0, 500, 1000, 1, 131_075, 1000, 4096, 1024]
OTHERS = ["F32", "F32", "F32", "I8", "F32", "F32", "BF16", "F16", "F32", "F32", "BF16", "F32"]


def read(ref):
    return np.fromfile(ref.file, np.uint8, ref.nbytes, offset=ref.offset)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    """Twelve tensors of six mixes of dtypes; the other's lie in two files, in another order than the base's."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(40)
    base = [(code, random_tensor(code, size, rng)) for code, size in zip(CODES, SIZES, strict=True)]
    other = [
        (to, nearby(raw, code, rng) if to == code else random_tensor(to, size, rng))
        for (code, raw), to, size in zip(base, OTHERS, SIZES, strict=True)
    ]
    order = [5, 0, 11, 3, 9, 1, 4, 8, 2, 10, 7, 6]
    of_base = write(folder / "base", base, gaps=[0, 3, 0, 70_000, 0, 1, 0, 0, 200, 0, 0, 0])
    of_other = [
        *write(folder / "other-1", [other[k] for k in order[:6]], gaps=5),
        *write(folder / "other-2", [other[k] for k in order[6:]], head=64),
    ]
    place = {k: at for at, k in enumerate(order)}
    return [Joined(k, (of_base[k], of_other[place[k]]), SIZES[k]) for k in range(len(SIZES))]


@pytest.fixture(scope="module")
def wanted(tensors):
    rows = [
        exact([[read(ref) for ref in tensor.operands]], [ref.dtype for ref in tensor.operands]) for tensor in tensors
    ]
    return tuple(np.concatenate(part) for part in zip(*rows, strict=True))


def run(tensors, **options):
    sums = execute(tensors, 2, [(1, 0)], **options)
    return sums.selfs, sums.pairs


@pytest.mark.parametrize("io", ["map", "pread", "auto"])
def test_sums(tensors, wanted, io):
    check(run(tensors, io=io), wanted)


def test_bytes_read(tensors):
    for io in ("map", "pread"):
        sums = execute(tensors, 2, [(1, 0)], io=io)
        assert sums.bytes_read == sum(ref.nbytes for tensor in tensors for ref in tensor.operands)
        assert sums.seconds > 0


@pytest.mark.parametrize("io", ["map", "pread"])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch_bytes", [1, 50_000, 8 << 30])
def test_same_bits_however_it_is_done(tensors, monkeypatch, io, threads, batch_bytes):
    usual = run(tensors, threads=1, io="map")
    monkeypatch.setattr(execution, "batches", functools.partial(plan.batches, batch_bytes=batch_bytes))
    assert same_bits(usual, run(tensors, threads=threads, io=io))


def test_same_bits_in_any_order(tensors):
    usual = run(tensors)
    order = np.random.default_rng(41).permutation(len(tensors))
    assert same_bits([part[order] for part in usual], run([tensors[k] for k in order]))
    one_by_one = [run([tensor]) for tensor in tensors]
    assert same_bits(usual, [np.concatenate(parts) for parts in zip(*one_by_one, strict=True)])


def test_same_bits_for_other_file_names(tensors, tmp_path):
    """Batches go by file name and offset; the sums do not."""
    names = {}
    for number, ref in enumerate(ref for tensor in tensors for ref in tensor.operands):
        if ref.file not in names:
            names[ref.file] = tmp_path / f"{9 - number}"
            names[ref.file].symlink_to(ref.file)
    moved = [
        Joined(
            tensor.index,
            tuple(
                TensorRef(ref.name, ref.dtype, ref.shape, ref.nbytes, str(names[ref.file]), ref.offset)
                for ref in tensor.operands
            ),
            tensor.elements,
        )
        for tensor in tensors
    ]
    assert same_bits(run(tensors), run(moved))


def test_leading_elements_only(tensors):
    """A joined tensor may take part with fewer elements than its operands have."""
    row = [tensors[0]]
    base, other = (read(ref)[: 4 * 640] for ref in row[0].operands)
    sums = execute([Joined(0, row[0].operands, 640)], 2, [(1, 0)])
    check((sums.selfs, sums.pairs), exact([[base, other]], ["F32", "F32"]))
    assert sums.bytes_read == 2 * 4 * 640


def test_index_is_the_callers(tensors):
    moved = [Joined(100 - tensor.index, tensor.operands, tensor.elements) for tensor in tensors]
    assert same_bits(run(tensors), run(moved))


def test_many_operands_and_pairs(tmp_path):
    rng = np.random.default_rng(42)
    raws = [random_tensor("F32", 3000, rng) for _ in range(4)]
    refs = tuple(write(tmp_path / str(n), [("F32", raw)])[0] for n, raw in enumerate(raws))
    pairs = [(3, 1), (0, 2), (2, 2)]
    sums = execute([Joined(0, refs, 3000)], 4, pairs)
    check((sums.selfs, sums.pairs), exact([raws], ["F32"] * 4, pairs))
    alone = execute([Joined(0, refs[:1], 3000)], 1, [])
    assert alone.pairs.shape == (1, 0, 5) and same_bits([alone.selfs[:, 0]], [sums.selfs[:, 0].copy()])


def test_nothing_to_do():
    sums = execute([], 2, [(1, 0)])
    assert sums.selfs.shape == (0, 2, 6) and sums.pairs.shape == (0, 1, 5) and sums.bytes_read == 0


def test_tensors_that_are_looked_at_again(tmp_path):
    """Cancelling sums and 64-bit integers need the bytes a second time, from a map or not."""
    half = np.random.default_rng(43).normal(size=900)
    x, y = np.r_[half, -half], np.r_[half, half]
    big = np.array([2**60, 2**60 + 1], np.int64), np.array([2**60 + 1, 2**60 + 1], np.int64)
    base = write(tmp_path / "base", [("F64", y.view(np.uint8)), ("I64", big[0].view(np.uint8))])
    other = write(tmp_path / "other", [("F64", x.view(np.uint8)), ("I64", big[1].view(np.uint8))])
    joined = [Joined(k, (base[k], other[k]), elements) for k, elements in enumerate((1800, 2))]
    for io in ("map", "pread"):
        selfs, pairs = run(joined, io=io)
        assert selfs[0, 1, 2] == 0 and pairs[0, 0, 2] == 0 and pairs[1, 0].tolist() == [1, 1, 2.0**121, 1, 1]


def test_tensors_in_memory(tensors):
    """What lies in no file is taken where it is, beside what does."""

    class Held:
        def __init__(self, raw):
            self.raw = raw

        def data_ptr(self):
            return self.raw.ctypes.data

    held = []
    for tensor in tensors:
        base, other = tensor.operands
        memory = Held(read(other))
        held.append(
            Joined(
                tensor.index,
                (base, TensorRef(other.name, other.dtype, other.shape, other.nbytes, "gone", None, memory)),
                tensor.elements,
            )
        )
    for io in ("map", "pread"):
        assert same_bits(run(tensors), run(held, io=io))


def test_progress(tensors):
    seen = []
    total = sum(tensor.nbytes for tensor in tensors)
    execute(tensors, 2, [(1, 0)], progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (total, total)
    assert all(of == total for _, of in seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_progress_is_throttled(tmp_path):
    refs = write(tmp_path / "a", [("U8", np.zeros(10, np.uint8))] * 3000)
    seen = []
    joined = [Joined(k, (ref,), 10) for k, ref in enumerate(refs)]
    sums = execute(joined, 1, [], threads=2, progress=lambda done, _: seen.append(done))
    assert len(seen) <= 2 + 10 * sums.seconds
    assert seen[-1] == 30_000


def one_file(tmp_path):
    path = tmp_path / "model"
    refs = write(path, [("F32", random_tensor("F32", 70_000, np.random.default_rng(k))) for k in range(4)])
    return path, [Joined(k, (ref, ref), 70_000) for k, ref in enumerate(refs)]


@pytest.mark.parametrize("io", ["map", "pread", "auto"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: os.truncate(path, 900), r'has 900 bytes but tensor "t0" ends at byte 280,011: .* cut short'),
        (lambda path: os.truncate(path, 0), r"has 0 bytes but tensor"),
        (lambda path: path.unlink(), "cannot be read: No such file or directory"),
        (lambda path: (path.unlink(), path.mkdir()), "model"),
    ],
    ids=["truncated", "emptied", "deleted", "folder"],
)
def test_file_that_changed_before(tmp_path, io, change, sentence):
    path, joined = one_file(tmp_path)
    change(path)
    with pytest.raises(ReadError, match=sentence):
        run(joined, io=io)


@pytest.mark.parametrize("io", ["map", "pread"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: path.open("ab").write(b"more"), "changed while it was being read"),
        (lambda path: os.utime(path, ns=(0, 0)), "changed while it was being read"),
        (lambda path: path.unlink(), "vanished while it was being read"),
        (lambda path: os.replace(path.with_name("new"), path), "changed while it was being read"),
    ],
    ids=["grown", "touched", "deleted", "replaced"],
)
def test_file_that_changes_meanwhile(tmp_path, io, change, sentence):
    path, joined = one_file(tmp_path)
    path.with_name("new").write_bytes(b"short")
    calls = []

    def meddle(done, total):
        if not calls:
            change(path)
        calls.append(done)

    with pytest.raises(ReadError, match=sentence):
        run(joined, io=io, threads=1, progress=meddle)
    assert calls


def test_file_that_is_cut_short_meanwhile(tmp_path):
    """Where it is read into buffers, the read itself tells; a second batch comes after the first one's progress."""
    _, joined = one_file(tmp_path)
    extra = write(tmp_path / "late", [("F64", np.zeros(8 * 1000, np.uint8))])[0]
    joined.append(Joined(4, (extra, extra), 1000))

    def meddle(done, total):
        os.truncate(extra.file, 500)

    with pytest.raises(ReadError, match="cut short"):
        run(joined, io="pread", threads=1, progress=meddle)


def test_way_of_reading(tensors):
    with pytest.raises(OptionError, match="choose from auto, map, pread"):
        run(tensors, io="magic")


def test_descriptors_are_given_back(tensors, tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for io in ("map", "pread"):
        run(tensors, io=io)
    path, joined = one_file(tmp_path)
    path.unlink()
    with pytest.raises(ReadError):
        run([*tensors, *(Joined(50 + t.index, t.operands, t.elements) for t in joined)])
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)
