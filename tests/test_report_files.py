"""Files that are written whole or not at all, and standard output that may go away."""

import errno
import os
import stat

import pytest

from weighbridge.engine.errors import OutputError
from weighbridge.engine.report import files
from weighbridge.engine.report.files import check_writable, write_whole
from weighbridge.engine.report.sink import Output


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    target = tmp_path / "out.json"
    write_whole(target, "one")
    write_whole(target, "zwei ü")
    assert target.read_text(encoding="utf-8") == "zwei ü"
    assert names(tmp_path) == ["out.json"]


def test_permissions_follow_the_umask_and_are_kept(tmp_path):
    target = tmp_path / "out"
    before = os.umask(0o027)
    try:
        write_whole(target, "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    target.chmod(0o604)
    write_whole(target, "b")
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


def test_symbolic_links_stay_links(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_leaves_what_was_there(tmp_path, monkeypatch, step):
    target = tmp_path / "out"
    target.write_text("old")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(OutputError, match=r"out could not be written: No space left on device"):
        write_whole(target, "new")
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_missing_folder_and_folder_as_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"the folder .*nowhere does not exist; make it"):
        check_writable(tmp_path / "nowhere" / "out")
    with pytest.raises(OutputError, match="is a folder; give the name of a file"):
        check_writable(tmp_path)
    with pytest.raises(OutputError, match=r"the folder .*file is not a folder"):
        check_writable(tmp_path / "file" / "out")


def test_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(OutputError, match="no permission to make files in"):
        check_writable(tmp_path / "out")


def test_devices_are_written_to():
    write_whole(os.devnull, "gone")
    with pytest.raises(OutputError, match="No space left on device"):
        write_whole("/dev/full", "x" * 100_000)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_output_is_checked_before_and_written_at_the_end(tmp_path):
    with pytest.raises(OutputError):
        Output(tmp_path / "nowhere" / "out")
    output = Output(tmp_path / "out")
    output.write("a")
    assert names(tmp_path) == []
    output.write("b")
    output.close()
    assert (tmp_path / "out").read_text() == "ab"
    assert output.width is None and not output.colour


def test_output_without_anything_writes_no_file(tmp_path):
    Output(tmp_path / "out").close()
    assert names(tmp_path) == []


def test_dash_is_standard_output(capsys):
    output = Output("-")
    output.write("ä\n")
    output.close()
    assert capsys.readouterr().out == "ä\n"


def test_closed_standard_output_is_a_sentence(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(OutputError, match="standard output is closed"):
        Output().write("x")
