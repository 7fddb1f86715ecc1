"""PyTorch files as an attacker would build them: none runs, writes or reads anything outside, each gets a sentence."""

import json
import os
import pickle
import resource
import struct
import sys
import threading
import zipfile
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from weighbridge.engine.errors import FormatError, ReadError, WeighbridgeError
from weighbridge.engine.formats import open_checkpoint

MARK = "/tmp/weighbridge-test-an-attack-succeeded"


def call(function, *arguments):
    """An object whose unpickling calls a function."""
    return type("Attack", (), {"__reduce__": lambda self: (function, arguments)})()


def asm(text):
    """A pickle out of opcodes: GLOBALs and arguments as in the protocol's own disassembly."""
    return b"\x80\x02" + text + b"."


def glob(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


COMMAND = text(f"touch {MARK}")
DICT_OF = b"}" + text("w") + b"%sus"

# name -> the bytes of a pickle
ATTACKS = {
    "os.system": pickle.dumps({"w": call(os.system, f"touch {MARK}")}, 2),
    "eval": pickle.dumps({"w": call(eval, f"open({MARK!r}, 'w')")}, 2),
    "exec": pickle.dumps({"w": call(exec, f"open({MARK!r}, 'w')")}, 2),
    "open for writing": pickle.dumps({"w": call(open, MARK, "w")}, 2),
    "protocol 4": pickle.dumps({"w": call(os.system, f"touch {MARK}")}, 4),
    "protocol 5": pickle.dumps({"w": call(os.system, f"touch {MARK}")}, 5),
    "nested as deep as it goes": pickle.dumps({"a": [{"b": ({"c": call(os.system, f"touch {MARK}")},)}]}, 2),
    "a key": pickle.dumps({call(os.system, f"touch {MARK}"): 1}, 2),
    "a global alone": asm(glob("os", "system") + b"0" + b"}"),
    "a global with dots": asm(glob("torch", "serialization.os.system") + COMMAND + b"\x85R"),
    "by way of builtins": asm(glob("builtins", "getattr") + glob("os", "system") + b"\x86R"),
    "by way of torch": asm(glob("torch.hub", "load") + COMMAND + b"\x85R"),
    "by way of torch.utils": asm(glob("torch.utils.collect_env", "run") + COMMAND + b"\x85R"),
    "by way of numpy": asm(glob("numpy", "load") + text(MARK) + b"\x85R"),
    "by way of torch._utils": asm(glob("torch._utils", "_rebuild_wrapper_subclass") + b")R"),
    "an allowed function on a hostile state": asm(
        glob("torch._utils", "_rebuild_parameter_with_state") + b"(" + glob("os", "system") + b"\x89N}tR"
    ),
    "INST": asm(b"(" + COMMAND + b"ios\nsystem\n"),
    "OBJ": asm(b"(" + glob("os", "system") + COMMAND + b"o"),
    "NEWOBJ": asm(glob("subprocess", "Popen") + COMMAND + b"\x85\x81"),
    "EXT": asm(b"\x82\x01"),
    "PERSID": asm(b"Pos.system\n"),
    "BUILD on a module": asm(glob("os", "environ") + b"}" + text("PATH") + text("/evil") + b"sb"),
    "STACK_GLOBAL": b"\x80\x04" + b"\x8c\x02os\x8c\x06system\x93" + b"\x8c\x05touch\x85R.",
    "memo out of nothing": asm(b"j\xff\xff\xff\x7f"),
    "an empty stack": asm(b"R"),
    "marks without end": asm(b"(" * 200_000),
    "a tuple in a tuple, 100,000 deep": asm(b"]" + b"\x85" * 100_000),
    "a text of 4 GB": asm(b"X\xff\xff\xff\xff" + b"a"),
    "a number of 2 GB": asm(b"\x8b\xff\xff\xff\x7f" + b"1"),
    "no end": b"\x80\x02}",
    "not a dict": asm(b"K\x01"),
    "itself": asm(b"}q\x00" + text("model") + b"h\x00s"),
}


def storage(key="0", numel=4, where="cpu", kind="FloatStorage"):
    """The persistent id of a storage: ('storage', torch.FloatStorage, key, location, numel)."""
    size = b"\x8a\x09" + struct.pack("<q", numel) + b"\0" if numel >= 1 << 31 else b"J" + struct.pack("<i", numel)
    return b"(" + text("storage") + glob("torch", kind) + text(key) + text(where) + size + b"tQ"


def tensor(stored, offset=0, size=(4,), stride=(1,)):
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())."""

    def number(value):
        raw = value.to_bytes(9, "little", signed=True)
        return b"\x8a\x09" + raw

    sizes, strides = (b"(" + b"".join(map(number, each)) + b"t" for each in (size, stride))
    ordered = glob("collections", "OrderedDict") + b")R"
    arguments = stored + number(offset) + sizes + strides + b"\x89" + ordered
    return glob("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def dict_of(value):
    return asm(b"}" + text("w") + value + b"s")


# name -> a pickle that describes tensors that are not there
LIES = {
    "a storage of exabytes": dict_of(tensor(storage(numel=1 << 60), size=(1 << 60,))),
    "a storage larger than its record": dict_of(tensor(storage(numel=400), size=(400,))),
    "a negative storage": dict_of(tensor(storage(numel=-4))),
    "an offset beyond the storage": dict_of(tensor(storage(), offset=100)),
    "a negative offset": dict_of(tensor(storage(), offset=-1)),
    "a size beyond the storage": dict_of(tensor(storage(), size=(5,))),
    "a negative size": dict_of(tensor(storage(), size=(-4,))),
    "a size that overflows": dict_of(tensor(storage(), size=(1 << 62, 8), stride=(0, 0))),
    "a stride beyond the storage": dict_of(tensor(storage(), size=(2, 2), stride=(1 << 40, 1))),
    "a negative stride": dict_of(tensor(storage(), size=(2,), stride=(-1,))),
    "terabytes out of one element": dict_of(tensor(storage(), size=(1 << 40,), stride=(0,))),
    "another record's name": dict_of(tensor(storage(key="../data.pkl"))),
    "a path for a name": dict_of(tensor(storage(key="/etc/passwd"))),
    "no record of that name": dict_of(tensor(storage(key="9"))),
}


def zipped(path, description, records=None, packing=zipfile.ZIP_STORED):
    """A zip as torch.save writes it, around any pickle."""
    contents = {"data.pkl": description, "version": b"3\n", "byteorder": b"little", "data/0": bytes(16)}
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in (contents | (records or {})).items():
            archive.writestr(f"archive/{name}", content)
    return path


class Watch:
    """What happens while a file is opened: code run, files opened for writing or outside the test's folder."""

    def __init__(self):
        self.events, self.active, self.own = [], False, threading.get_ident()
        sys.addaudithook(self.audit)  # for as long as the process lives, as nothing can take it away again

    def audit(self, event, arguments):
        if not self.active or threading.get_ident() != self.own:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        outside = event == "open" and str(arguments[0]) in ("/etc/passwd", MARK)
        runs = event == "exec" and getattr(arguments[0], "co_filename", "<string>") == "<string>"
        if writes or outside or runs or event in ("os.system", "subprocess.Popen", "os.exec", "socket.connect"):
            self.events.append((event, arguments[:2]))

    @contextmanager
    def watching(self):
        self.events.clear()
        self.active = True
        try:
            yield
        finally:
            self.active = False


WATCH = Watch()


@pytest.fixture(autouse=True, scope="module")
def imported(tmp_path_factory):
    """What torch imports and compiles when it first loads anything is not an attack."""
    path = tmp_path_factory.mktemp("warm") / "a.bin"
    for packed in (True, False):
        torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=packed)
        open_checkpoint(path)
    with pytest.raises(WeighbridgeError):
        open_checkpoint(zipped(path, ATTACKS["eval"]))


@pytest.fixture(autouse=True)
def unharmed():
    yield
    assert not os.path.exists(MARK)


def opened(path):
    with WATCH.watching():
        found = open_checkpoint(path)
    assert not WATCH.events
    return found


def refusal(path, error=FormatError):
    with pytest.raises(WeighbridgeError) as raised, WATCH.watching():
        open_checkpoint(path)
    message = str(raised.value)
    assert not WATCH.events
    assert raised.type is error and "\n" not in message and message.endswith(".") and len(message) < 500
    return message


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "bare"])
@pytest.mark.parametrize("name", ATTACKS)
def test_code_is_never_run(tmp_path, name, packed):
    path = tmp_path / "pytorch_model.bin"
    if packed:
        zipped(path, ATTACKS[name])
    else:
        path.write_bytes(ATTACKS[name])
    message = refusal(path)
    if "system" in name and packed:
        assert "code in a checkpoint is never run" in message


@pytest.mark.parametrize("function", ["os.system", "eval"])
def test_those_attacks_would_succeed(tmp_path, function):
    """Shows that the tests above can fail."""
    with WATCH.watching():
        pickle.loads(ATTACKS[function])
    assert os.path.exists(MARK) and WATCH.events
    os.unlink(MARK)


@pytest.mark.parametrize("name", LIES)
def test_tensors_that_are_not_there(tmp_path, name):
    refusal(zipped(tmp_path / "a.pt", LIES[name]))


def test_the_same_tensor_told_truly(tmp_path):
    """Shows that it is the lie that is refused."""
    found = opened(zipped(tmp_path / "a.pt", dict_of(tensor(storage()))))
    assert found.tensors["w"].shape == (4,)


# Zips


def test_a_zip_bomb(tmp_path):
    records = {"data/0": bytes(200 << 20)}
    description = dict_of(tensor(storage(numel=50 << 20), size=(50 << 20,)))
    path = zipped(tmp_path / "a.pt", description, records, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert "as those of a zip bomb do; save it again without compression" in refusal(path)


def test_a_bomb_in_a_record_that_no_tensor_uses(tmp_path):
    path = zipped(tmp_path / "a.pt", dict_of(tensor(storage())), {"byteorder": bytes(100 << 20)}, zipfile.ZIP_DEFLATED)
    assert "as those of a zip bomb do" in refusal(path)


def test_a_bomb_whose_directory_lies_about_its_size(tmp_path):
    """Said to be 16 bytes, it unpacks to 300 MB: no more than what is said is ever unpacked."""
    packing = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = b"".join(packing.compress(bytes(1 << 20)) for _ in range(300)) + packing.flush()
    path = zipped(tmp_path / "a.pt", dict_of(tensor(storage())), {"data/0": data})
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        local = archive.getinfo("archive/data/0").header_offset
    central = raw.rindex(b"archive/data/0") - 46
    for at in (local + 8, central + 10):  # how it is packed
        raw[at : at + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    for at in (local + 22, central + 24):  # its size when unpacked
        raw[at : at + 4] = struct.pack("<I", 16)
    path.write_bytes(raw)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        ref = opened(path).tensors["w"]
    except FormatError:
        pass
    else:
        assert ref.nbytes == 16
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("name", ["../../escaped", MARK, "..\\escaped"])
def test_records_with_paths_for_names(tmp_path, name):
    path = tmp_path / "folder" / "a.pt"
    path.parent.mkdir()
    zipped(path, dict_of(tensor(storage())))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"owned")
    assert "file in archive is not in a subdirectory" in refusal(path)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["a.pt", "folder"]


def test_a_record_twice(tmp_path):
    """Two readers of zips could see two different files; ours and torch's must agree, or it is refused."""
    path = zipped(tmp_path / "a.pt", dict_of(tensor(storage())))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/0", np.full(4, 7, np.float32).tobytes())
    try:
        ref = opened(path).tensors["w"]
    except WeighbridgeError:
        return
    loaded = torch.load(path, weights_only=True)["w"].numpy().tobytes()
    assert path.read_bytes()[ref.offset : ref.offset + 16] == loaded


# Indices and links


def test_an_index_may_not_lead_to_a_pickle_elsewhere(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.bin").write_bytes(ATTACKS["os.system"])
    for shard in ("../secret.bin", str(tmp_path / "secret.bin"), "x/../../secret.bin", "./../secret.bin"):
        index = {"weight_map": {"w": shard}}
        (tmp_path / "model" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        assert "lies outside its folder" in refusal(tmp_path / "model")


@pytest.mark.parametrize(
    "target", ["/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/self/environ", "/etc/passwd", "/"]
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json"])
def test_links_to_what_is_no_checkpoint(tmp_path, target, name):
    """A link in a folder of a stranger's: opened as what it is, refused without a word of what it holds."""
    if not os.path.exists(target):
        pytest.skip(f"no {target} here")
    save_file({"a": np.ones(2)}, tmp_path / "model.safetensors")
    if name != "config.json":
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).symlink_to(target)
    if name == "config.json" and not os.path.isfile(target):
        assert open_checkpoint(tmp_path).names == ["a"]  # there is no config
        return
    with pytest.raises((FormatError, ReadError)) as raised:
        open_checkpoint(tmp_path / name if os.path.isdir(target) else tmp_path)
    message = str(raised.value)
    assert "\n" not in message and "root" not in message.replace("pytest-of-root", "") and "PATH" not in message


def test_links_in_a_circle(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").symlink_to(tmp_path / "model.safetensors")
    with pytest.raises(WeighbridgeError, match="does not exist"):
        open_checkpoint(tmp_path / "model.safetensors")
