"""What is installed, and with which versions it is tested."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_INSTALLED = {"tests", "benchmarks"}


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(text):
    return [line for line in text.split("\n") if line]


def name(requirement):
    return re.split(r"[<>=!~;\[ ]", requirement)[0].lower().replace("_", "-")


def test_every_package_is_listed(setup):
    """The list is by hand, because the root itself is the package; what it lacks is missing from an install."""
    found = {"weighbridge"}
    for init in ROOT.glob("*/**/__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if parts[0] not in {*NOT_INSTALLED, "build"} and not parts[0].startswith("."):
            found.add(".".join(("weighbridge", *parts)))
    assert set(lines(setup["options"]["packages"])) == found


def test_every_dependency_is_pinned(setup):
    pins = [line for line in lines((ROOT / "constraints.txt").read_text()) if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins), (
        "one plain version each, no local builds, no URLs"
    )
    wanted = lines(setup["options"]["install_requires"])
    for extra in setup["options.extras_require"].values():
        wanted += lines(extra)
    assert {name(requirement) for requirement in wanted} <= {name(pin) for pin in pins}
