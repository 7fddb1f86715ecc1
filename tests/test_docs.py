"""The README documents every command, every option and every public name."""

import re
from pathlib import Path

import pytest
import typer

import weighbridge
from weighbridge.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
GROUP = typer.main.get_command(app)


def sections(words):
    """The parts of the README under headings that hold one of these words, each up to the next of level 1 or 2."""
    found = re.findall(rf"(?ims)^(#+) [^\n]*\b(?:{words})\b[^\n]*$(.*?)(?=^#{{1,2}} |\Z)", _without_code_comments())
    assert found, f"README.md has no section about {words}"
    return "".join(body for _, body in found)


def _without_code_comments():
    # A line "# ..." in a shell example is no heading.
    return re.sub(r"(?ms)^```.*?^```", lambda block: re.sub(r"(?m)^#", " #", block[0]), README)


def undocumented(options, text):
    return [option for option in options if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)]


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_every_command_and_option_is_documented(name):
    text = sections("command line|CLI")
    options = {
        option for parameter in GROUP.commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert undocumented([f"weighbridge {name}", *sorted(o for o in options if o.startswith("-"))], text) == []


def test_every_public_name_is_documented():
    assert undocumented(weighbridge.__all__, sections("Python|API")) == []


def test_the_check_can_fail():
    assert undocumented(["--fail-if", "--fail", "-o"], "`--fail-if` and `--output`") == ["--fail", "-o"]
