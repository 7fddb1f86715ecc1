"""How many threads there are: never more than the processor time that a container may have."""

import os

import pytest

from weighbridge.kernels.processors import available_threads


@pytest.fixture
def system(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def make(group, **quotas):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(f"1:name=systemd:/x\n0::/{group}\n")
        for name, text in quotas.items():
            folder = tmp_path / "sys/fs/cgroup" / name.replace("__", "/").removeprefix("top")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cpu.max").write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("group", "quotas", "wanted"),
    [
        ("", {}, 64),
        ("", {"top": "max 100000\n"}, 64),
        ("", {"top": "200000 100000\n"}, 2),
        ("pod/app", {"pod__app": "max 100000\n", "pod": "350000 100000\n"}, 4),
        ("pod/app", {"pod__app": "10000 100000\n", "pod": "350000 100000\n"}, 1),
        ("pod", {"pod": "9900000 100000\n"}, 64),
        ("pod", {"pod": "rubbish\n"}, 64),
    ],
)
def test_quota(system, group, quotas, wanted):
    assert available_threads(system(group, **quotas)) == wanted


def test_without_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert available_threads(tmp_path) == 3
