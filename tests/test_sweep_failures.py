"""One bad checkpoint among many: a failure with its reason, and the rest as if it were not there."""

import os
import re
import shutil

import pytest
from safetensors.numpy import load_file, save_file

import weighbridge
from weighbridge.engine.sweep import run_sweep
from weighbridge.engine.sweep_plan import plan_sweep
from weighbridge.engine.sweep_task import run_task

from support.sweeps import Silent, contents, family


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def wrong(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 200)


def empty(path):
    path.write_bytes(b"")


def strange(path):
    save_file({"another.model": next(iter(load_file(path).values()))}, path)


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


def folder_of_nothing(path):
    path.unlink()
    path.mkdir()


def cannot_be_read(path):
    path.chmod(0)


BAD = {
    truncated: "bytes",
    wrong: "not a safetensors file",
    empty: "is empty",
    strange: "no tensor of .* matches",
    dangling: "does not exist",
    folder_of_nothing: "is an empty folder",
    cannot_be_read: "permission denied",
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Five others; what is swept of all but the third."""
    folder = tmp_path_factory.mktemp("good")
    family(folder, 5, elements=200_000)
    return folder


@pytest.fixture
def folder(checkpoints, tmp_path):
    shutil.copytree(checkpoints, tmp_path / "run")
    return tmp_path / "run"


def others(folder):
    return [f"o-{number}.safetensors" for number in range(1, 6)]


def rows(folder):
    found = contents(folder / "out")
    return {name: data for name, data in found.items() if name != "sweep.json"}


def require_only_the_third_failed(folder, outcomes, reason, expect_rows):
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed", "done", "done"]
    assert re.search(reason, outcomes[2].reason), outcomes[2].reason
    (failed,) = weighbridge.open_results(folder / "out").failures
    assert failed == {"label": "o-3.safetensors", "source": "o-3.safetensors", "reason": outcomes[2].reason}
    assert rows(folder) == expect_rows


@pytest.fixture
def good_rows(folder, monkeypatch):
    """The rows of a sweep of the four good ones alone, after which the folder is as before."""
    monkeypatch.chdir(folder)
    names = others(folder)
    weighbridge.sweep("base.safetensors", names[:2] + names[3:], out=folder / "out")
    found = rows(folder)
    shutil.rmtree(folder / "out")
    return found


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("when", ["before", "between"])
def test_spoilt(folder, good_rows, spoil, when):
    """Before the sweep, or between its plan and its pass."""
    if spoil is cannot_be_read and os.geteuid() == 0:
        pytest.skip("root may read everything")
    if when == "before":
        spoil(folder / "o-3.safetensors")
    plan = plan_sweep("base.safetensors", others(folder), out=folder / "out")
    if when == "between":
        spoil(folder / "o-3.safetensors")
    require_only_the_third_failed(folder, run_sweep(plan), BAD[spoil], good_rows)


class Meanwhile(Silent):
    """A progress that spoils a file when the first bytes have been read."""

    def __init__(self, act):
        self.act, self.acted = act, False

    def reading(self, nbytes):
        if not self.acted:
            self.acted = True
            self.act()


def rewritten(path):
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("io", ["map", "pread"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(os.unlink, "does not exist"), (rewritten, "changed while it was being read")],
)
def test_spoilt_while_it_is_read(folder, good_rows, spoil, reason, io):
    plan = plan_sweep("base.safetensors", others(folder), out=folder / "out", io=io)
    meanwhile = Meanwhile(lambda: spoil(folder / "o-3.safetensors"))
    outcomes = run_sweep(plan, progress=meanwhile)
    assert meanwhile.acted
    if spoil is rewritten:  # the same bytes at another time: the first pass is not trusted, the second is sound
        assert [outcome.status for outcome in outcomes] == ["done"] * 5
    else:
        require_only_the_third_failed(folder, outcomes, reason, good_rows)


def test_a_file_cut_short_while_it_is_read(folder, good_rows):
    plan = plan_sweep("base.safetensors", others(folder), out=folder / "out", io="pread")
    meanwhile = Meanwhile(lambda: truncated(folder / "o-3.safetensors"))
    require_only_the_third_failed(folder, run_sweep(plan, progress=meanwhile), "cut short|ends at byte", good_rows)


def test_strict_raises_the_first(folder, good_rows):
    plan = plan_sweep("base.safetensors", others(folder), out=folder / "out", strict=True)
    truncated(folder / "o-3.safetensors")
    with pytest.raises(weighbridge.WeighbridgeError, match="o-3"):
        run_sweep(plan)


def test_rows_are_returned_where_there_is_no_folder(folder, good_rows):
    plan = plan_sweep("base.safetensors", others(folder), out=None)
    (task,) = plan.tasks
    outcomes = run_task(task, plan.settings)
    assert [outcome.status for outcome in outcomes] == ["done"] * 5
    assert {outcome.table for outcome in outcomes} >= set(good_rows.values())
    with pytest.raises(weighbridge.WeighbridgeError, match="needs a folder"):
        run_sweep(plan)


ON_DEVICE = {"device": "portable:cpu"}


def test_a_pass_that_does_not_fit_a_device_is_halved(folder, monkeypatch):
    """A chunk of the base and two others does, and three not; the rows are those of one pass."""
    monkeypatch.chdir(folder)
    weighbridge.sweep("base.safetensors", others(folder), out=folder / "out", **ON_DEVICE)
    at_once = rows(folder)
    shutil.rmtree(folder / "out")
    plan = plan_sweep("base.safetensors", others(folder), out=folder / "out", device_memory="4MB", **ON_DEVICE)
    assert len(plan.tasks) == 1
    assert [outcome.status for outcome in run_sweep(plan)] == ["done"] * 5
    assert rows(folder) == at_once


def test_an_other_that_does_not_fit_a_device_is_the_only_one_that_fails(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = others(folder)
    save_file({name: a.astype("f8") for name, a in load_file(names[2]).items()}, names[2])
    weighbridge.sweep("base.safetensors", names[:2] + names[3:], out=folder / "out", **ON_DEVICE)
    expected = rows(folder)
    shutil.rmtree(folder / "out")
    plan = plan_sweep("base.safetensors", names, out=folder / "out", device_memory="3MB", **ON_DEVICE)
    require_only_the_third_failed(folder, run_sweep(plan), "^cpu would need a buffer of 786,432 bytes", expected)


def test_a_file_whose_name_is_an_error_of_the_device(folder, good_rows):
    """What is wrong with a file is not taken for what is wrong with a device, whatever the file is called."""
    name = "CUDA error: out of memory.safetensors"
    (folder / "o-3.safetensors").rename(folder / name)
    names = others(folder)
    plan = plan_sweep("base.safetensors", [*names[:2], name], out=folder / "out", io="pread", **ON_DEVICE)
    outcomes = run_sweep(plan, progress=Meanwhile(lambda: truncated(folder / name)))
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed"]
    assert re.search("cut short|ends at byte", outcomes[2].reason)
