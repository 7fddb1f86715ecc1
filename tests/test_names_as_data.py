"""Names that try to be something else, through every command and format: shown, never acted upon."""

import csv
import html
import io
import json
import re
import unicodedata

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli import app
from weighbridge.engine.report.html_table import comparison_html, inspection_html

NAMES = {
    "clears the screen": "\x1b[2J\x1b]0;owned\x07a.weight",
    "8-bit control": "\x9b31mb.weight",
    "newlines": "a\nb\r\nTotal 0\rc.weight",
    "looks the other way": "\u202etxt.thgiew",
    "HTML": "<script>alert('x')</script>&amp;<img src=x onerror=y>",
    "Markdown": "[a](javascript:x) `|` | **b** ~~c~~ ![](http://x)",
    "formula": "=HYPERLINK(\"http://x?\"&A1,\"a\")",
    "formula, plus": "+1+cmd|' /C calc'!A0",
    "formula, minus": "-2+3",
    "formula, at": "@SUM(1)",
    "formula after a tab": "\t=1+1",
    "rich markup": "[red]a[/red].weight",
    "nothing": "",
    "NUL and DEL": "a\x00b\x7f",
    "long": "x" * 65536,
    "surrogate-like": "\U0001f600.weight",
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    for number, file in enumerate(("base", "other")):
        arrays = {name: np.full((2, 2), n + number, np.float32) for n, name in enumerate(NAMES.values())}
        save_file(arrays | {f"only in {file}\x1b[1m": np.ones(1, np.float32)}, folder / f"{file}.safetensors")
    return folder / "base.safetensors", folder / "other.safetensors"


COMMANDS = {
    "compare": ["compare", "--by", "tensor", "--top", "0"],
    "match": ["match"],
    "inspect": ["inspect"],
    "inspect --stats": ["inspect", "--stats"],
    "matrix": ["matrix", "--by", "tensor"],
}
SHORT = ("match", "matrix")  # these cut names of 64 KiB in what people read


def printed(pair, command, fmt):
    name, *options = COMMANDS[command]
    files = pair[:1] if name == "inspect" else pair
    if name == "matrix" and fmt in ("table", "markdown"):
        options = ["--by", "kind"]  # by tensor is for files
    done = CliRunner().invoke(app, [name, *map(str, files), *options, "--format", fmt])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("fmt", ["table", "markdown", "json", "csv", "tsv"])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_a_terminal_acts_upon_is_printed(pair, command, fmt):
    text = printed(pair, command, fmt)
    acted_upon = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs")}
    assert acted_upon <= ({"\n", "\t"} if fmt == "tsv" else {"\n"})
    assert "x" * 65536 in text or fmt == "markdown" or command in SHORT


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fmt", ["csv", "tsv"])
def test_no_cell_is_a_formula_and_a_record_is_a_line(pair, command, fmt):
    text = printed(pair, command, fmt)
    rows = list(csv.reader(io.StringIO(text), delimiter="," if fmt == "csv" else "\t"))
    assert len(rows) == len(text.splitlines()) >= len(NAMES) + 2
    number = re.compile(r"-?[0-9.]+(e[-+][0-9]+)?|-?inf")
    for row in rows:
        for cell in row:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or number.fullmatch(cell), cell[:40]
    assert any("'=HYPERLINK" in cell for row in rows for cell in row)


@pytest.mark.parametrize("command", COMMANDS)
def test_json_has_every_name_as_it_stands(pair, command):
    tensors = json.loads(printed(pair, command, "json"))["tensors"]
    names = set(tensors) if command == "matrix" else {row.get("tensor", row.get("name")) for row in tensors}
    assert names >= set(NAMES.values())


def test_html_is_inert(pair):
    for text in (
        comparison_html(weighbridge.compare(*pair)),
        inspection_html(weighbridge.inspect(pair[0], stats=True)),
    ):
        tags = {tag.lower() for tag in re.findall(r"</?([a-zA-Z]+)", text)}
        assert tags <= {"div", "p", "strong", "br", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "small"}
        assert not re.search(r"<[a-z]+ (?!style=\"text-align:(left|right)\"|class=\"weighbridge\")", text)
        assert not {char for char in text if unicodedata.category(char) in ("Cc", "Cf")} - {"\n"}
    assert html.escape("<script>") in inspection_html(weighbridge.inspect(pair[0]))


def test_markdown_stays_in_its_cells(pair):
    text = printed(pair, "compare", "markdown")
    for line in text.splitlines():
        outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line)
        assert not re.search(r"(?<!\\)<[a-z/]", outside), line[:200]
        assert not re.search(r"(?<!\\)\]\(", outside), line[:200]


def test_a_sentence_with_such_a_name_is_one_line(tmp_path):
    path = tmp_path / "a\x1b[2J\nb.safetensors"
    path.write_bytes(b"\x05\0\0\0\0\0\0\0{\x1b}}}")
    done = CliRunner().invoke(app, ["inspect", str(path)])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1 and "\x1b" not in done.stderr
