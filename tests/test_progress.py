"""Progress: nothing within a second, nothing without a terminal, then bytes, speed and time left."""

import io
import subprocess
import sys

import pytest

from weighbridge.engine.progress import DELAY_SECONDS, Reporter, reporting


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Makes stderr a terminal; called within the test, since pytest sets stderr anew before it."""

    def make():
        stderr = Terminal()
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        return stderr

    return make


def test_nothing_without_a_terminal():
    with reporting("x") as reporter:
        assert reporter is None


def test_nothing_when_not_wanted(terminal):
    terminal()
    with reporting("x", wanted=False) as reporter:
        assert reporter is None


def test_nothing_within_the_delay(terminal):
    stderr = terminal()
    now = [0.0]
    reporter = Reporter("x", clock=lambda: now[0])
    reporter(10, 100)
    now[0] = DELAY_SECONDS * 0.99
    reporter(20, 100)
    now[0] = DELAY_SECONDS * 2
    reporter(100, 100)  # done: nothing left to show
    reporter.close()
    assert stderr.getvalue() == ""


def test_bytes_speed_and_time_left(terminal):
    stderr = terminal()
    now = [0.0]
    reporter = Reporter("[bold]x", clock=lambda: now[0])
    now[0] = DELAY_SECONDS
    for gigabytes in (1, 2, 3):
        reporter(gigabytes * 10**9, 4 * 10**9)
    text = stderr.getvalue()
    reporter.close()
    assert "3.0/4.0 GB" in text and "B/s" in text and "0:0" in text and "[bold]x" in text


def test_what_a_sentence_announces_is_not_the_time_of_the_bytes(terminal):
    stderr = terminal()
    now = [0.0]
    reporter = Reporter("x", clock=lambda: now[0])
    reporter.say("compiling")
    now[0] = 10.0
    reporter(10, 100)
    assert stderr.getvalue() == "compiling\n"
    now[0] += DELAY_SECONDS
    reporter(20, 100)
    assert reporter.bar is not None
    reporter.close()


def test_bar_is_closed_when_the_work_fails(terminal):
    terminal()
    with pytest.raises(ValueError, match="planted"), reporting("x") as reporter:
        reporter.started -= DELAY_SECONDS
        reporter(1, 4)
        assert reporter.bar is not None
        raise ValueError("planted")
    assert reporter.bar is None


def test_rich_is_not_imported_for_short_work():
    code = (
        "import sys; from weighbridge.engine.progress import Reporter; r = Reporter('x'); r(1, 2); r(2, 2); r.close();"
        "sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
