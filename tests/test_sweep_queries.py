"""The README's queries of a sweep's folder, run as they stand there."""

import re
from pathlib import Path

import pytest

import weighbridge

from support.sweeps import swept

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = [block for block in re.findall(r"(?s)```python\n(.*?)```", README) if "DIR/rows" in block]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("queries")
    swept(folder)
    (folder / "out" / "rows" / ".half.0000.partial").write_bytes(b"PAR1 half")  # as while a sweep runs
    return folder / "out"


def test_there_is_one_for_each_tool():
    assert [re.match(r"import (\w+)", block)[1] for block in BLOCKS] == ["duckdb", "pandas", "polars"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split()[1])
def test_it_gives_the_pooled_delta(folder, block):
    names = {}
    exec(block.replace("DIR", str(folder)), names)
    wanted = {line["label"]: line["pooled_delta"] for line in weighbridge.open_results(folder).summary()}
    assert len(wanted) == 3 and dict(names["deltas"]) == pytest.approx(wanted, rel=1e-14)
