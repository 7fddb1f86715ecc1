"""Reading PyTorch's own files: which tensors, where their bytes lie, and no code run."""

import collections
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from weighbridge.engine.errors import FormatError
from weighbridge.engine.formats import open_checkpoint
from weighbridge.engine.formats.contiguous import LazyStrided
from weighbridge.engine.formats.zip_records import ZipRecords, locate_mapping
from weighbridge.kernels.decoders import DECODERS

from support.ckpt import tensor_bytes

CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "complex128": "complex128",
}


def as_bytes(tensor):
    return tensor.detach().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def check_bytes(checkpoint, tensors):
    for name, tensor in tensors.items():
        ref = checkpoint.tensors[name]
        assert ref.shape == tuple(tensor.shape)
        assert tensor_bytes(ref) == (as_bytes(tensor) if tensor.numel() else b""), name


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    big = torch.randn(10, 12)
    return {
        "plain": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "part": big[2:5],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "embedding": big,
        "head": big,
        "transposed": big.t(),
        "expanded": big[:1].expand(4, 12),
        "column": big[:, 3],
    }


VIEWS = ("transposed", "expanded", "column")


def test_runs_of_a_zip_are_given_as_file_and_offset(tmp_path, tensors):
    torch.save(tensors, tmp_path / "a.bin")
    checkpoint = open_checkpoint(tmp_path / "a.bin")
    assert checkpoint.format == "pytorch"
    assert checkpoint.names == list(tensors)
    check_bytes(checkpoint, tensors)
    for name, ref in checkpoint.tensors.items():
        assert (ref.offset is None) == (name in VIEWS)
        assert (ref.memory is None) == (name not in VIEWS)


def test_views_are_copied_when_they_are_asked_for_and_once(tmp_path, tensors):
    torch.save(tensors, tmp_path / "a.bin")
    memory = open_checkpoint(tmp_path / "a.bin").tensors["transposed"].memory
    assert isinstance(memory, LazyStrided)
    assert memory._copy is None
    assert memory.data_ptr() == memory.data_ptr() != 0


def test_without_views_the_file_is_not_kept_mapped(tmp_path):
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here")
    torch.save({"a": torch.ones(100)}, tmp_path / "a.bin")
    checkpoint = open_checkpoint(tmp_path / "a.bin")
    assert checkpoint.tensors["a"].offset is not None
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_the_format_from_before_zips(tmp_path, tensors):
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    checkpoint = open_checkpoint(tmp_path / "a.pth")
    check_bytes(checkpoint, tensors)
    assert checkpoint.tied == (("embedding", "head"),)


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_zip_that_is_not_its_bytes_is_read_through_torch(tmp_path, tensors, order):
    """Packed again with compression, or marked as written on a big-endian machine."""
    torch.save(tensors, tmp_path / "a.bin")
    packing = zipfile.ZIP_DEFLATED if order == "little" else zipfile.ZIP_STORED
    with zipfile.ZipFile(tmp_path / "a.bin") as old, zipfile.ZipFile(tmp_path / "b.bin", "w", packing) as new:
        for name in old.namelist():
            new.writestr(name, order if name.endswith("byteorder") else old.read(name))
    checkpoint = open_checkpoint(tmp_path / "b.bin")
    assert checkpoint.tensors["plain"].offset is None
    if order == "little":
        check_bytes(checkpoint, tensors)
    else:
        swapped = torch.frombuffer(bytearray(tensor_bytes(checkpoint.tensors["plain"])), dtype=torch.uint8)
        assert torch.equal(swapped.view(12, 4).flip(1).flatten().view(torch.float32).view(3, 4), tensors["plain"])


@pytest.mark.parametrize("dtype", CODES)
def test_dtypes(tmp_path, dtype):
    tensor = torch.ones(6, 16, dtype=torch.uint8).view(getattr(torch, dtype))
    torch.save({"x": tensor}, tmp_path / "a.bin")
    checkpoint = open_checkpoint(tmp_path / "a.bin")
    assert checkpoint.tensors["x"].dtype == CODES[dtype]
    check_bytes(checkpoint, {"x": tensor})


def test_pairs_of_four_bits_are_counted_as_elements(tmp_path):
    if not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("this torch has no float4")
    torch.save({"x": torch.zeros(2, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}, tmp_path / "a.bin")
    ref = open_checkpoint(tmp_path / "a.bin").tensors["x"]
    assert (ref.dtype, ref.shape, ref.nbytes, ref.elements) == ("F4", (2, 6), 6, 12)


def test_what_cannot_be_compared_is_listed_and_says_why(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = {
            "sparse": torch.eye(4).to_sparse(),
            "csr": torch.eye(4).to_sparse_csr(),
            "quantised": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
            "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
            "meta": torch.ones(3, device="meta"),
            "complex": torch.ones(3, dtype=torch.complex128),
        }
    torch.save({**odd, "plain": torch.ones(2)}, tmp_path / "a.bin")
    checkpoint = open_checkpoint(tmp_path / "a.bin")
    dtypes = {name: ref.dtype for name, ref in checkpoint.tensors.items()}
    assert dtypes == {
        "sparse": "sparse_coo F32",
        "csr": "sparse_csr F32",
        "quantised": "qint8",
        "conjugated": "conjugated C64",
        "meta": "meta F32",
        "complex": "complex128",
        "plain": "F32",
    }
    assert {name for name, dtype in dtypes.items() if dtype in DECODERS} == {"plain"}
    assert {name: checkpoint.tensors[name].shape for name in odd} == {name: tuple(odd[name].shape) for name in odd}
    assert tensor_bytes(checkpoint.tensors["plain"]) == as_bytes(torch.ones(2))


def test_a_negated_view_has_its_sign(tmp_path):
    view = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64).conj().imag
    assert view.is_neg()
    torch.save({"x": view}, tmp_path / "a.bin")
    check_bytes(open_checkpoint(tmp_path / "a.bin"), {"x": torch.tensor([-2.0, 4.0])})


def test_tied_tensors_are_reported(tmp_path, tensors):
    torch.save(tensors, tmp_path / "a.bin")
    checkpoint = open_checkpoint(tmp_path / "a.bin")
    assert checkpoint.tied == (("embedding", "head"),)
    assert checkpoint.tensors["embedding"].offset == checkpoint.tensors["head"].offset


# Where the state dict is

W, V = torch.ones(2), torch.zeros(3)


@pytest.mark.parametrize(
    ("saved", "names", "metadata"),
    [
        ({"w": W}, ["w"], {}),
        (collections.OrderedDict(w=W), ["w"], {}),
        ({"state_dict": {"w": W}, "epoch": 3}, ["w"], {"epoch": "3"}),
        (
            {"model": {"w": W}, "optimizer": {"state": {0: V}}, "epoch": 3, "note": None},
            ["w"],
            {"optimizer": "dict of 1, not compared", "epoch": "3", "note": "None"},
        ),
        ({"model": {"state_dict": {"w": W}, "k": 1.5}}, ["w"], {"model.k": "1.5"}),
        ({"model": {}, "w": W}, ["w"], {"model": "dict of 0, not compared"}),
        ({"model": W}, ["model"], {}),
        ({"state_dict": {"w": W}, "sigma": V}, ["w"], {"sigma": "tensor (3,), outside the state dict, not compared"}),
        ({"w": W, "step": 7, "more": {"v": V}}, ["w"], {"step": "7", "more": "dict of 1, not compared"}),
        ({0: W, 1: V}, ["0", "1"], {}),
        ({}, [], {}),
    ],
)
def test_where_the_state_dict_is(tmp_path, saved, names, metadata):
    torch.save(saved, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert (checkpoint.names, dict(checkpoint.metadata)) == (names, metadata)
    assert all(ref.offset is not None for ref in checkpoint.tensors.values())


def test_a_dict_that_contains_itself(tmp_path):
    endless = {"w": W}
    endless["model"] = endless
    torch.save(endless, tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").names == ["w"]


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (W, "holds a single tensor, not a state dict"),
        ([W], "holds a list, not a state dict"),
        ({"encoder": {"w": W}}, "under state_dict and model, found the keys encoder; save the model's state_dict()"),
        ({"epoch": 3}, "holds no tensors"),
        ({0: W, "0": V}, 'holds two tensors named "0"'),
    ],
)
def test_where_no_state_dict_is(tmp_path, saved, words):
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(FormatError) as raised:
        open_checkpoint(tmp_path / "a.pt")
    assert words in str(raised.value)


# Where torch has mapped the file


def records(*places):
    return ZipRecords(dict(places), True, "")


def test_the_mapping_is_found_from_addresses_and_sizes():
    base = 0x7F0000000000
    found = records((64, 400), (512, 40), (640, 400))
    assert locate_mapping("f", found, {(base + 64, 400), (base + 512, 40)}) == base


def test_equal_records_at_equal_distances_leave_it_open():
    base = 0x7F0000000000
    found = records((4096, 400), (8192, 400))
    assert locate_mapping("f", found, {(base + 8192, 400)}) is None
    assert locate_mapping("f", found, {(base + 8192, 400), (base + 4096, 400)}) == base
    assert locate_mapping("f", found, set()) is None


def test_a_storage_of_another_size_than_its_record_is_an_error():
    with pytest.raises(FormatError, match="are not those of the zip's records"):
        locate_mapping("f", records((64, 400)), {(0x7F0000000000 + 64, 800)})


def test_identity_follows_the_content(tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        torch.save({"w": torch.full((3,), value)}, tmp_path / name / "pytorch_model.bin")
    first = open_checkpoint(tmp_path / "a").identity
    assert open_checkpoint(tmp_path / "a").identity == first != open_checkpoint(tmp_path / "b").identity
