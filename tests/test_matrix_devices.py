"""A matrix and a tree on another device: the bits of `compare` there, and trouble with it in one sentence."""

import numpy as np
import pytest
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli import app
from weighbridge.engine.matrix import MATRIX_METRICS

from support import families

DEVICE = "portable:cpu"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return families.write(tmp_path_factory.mktemp("family"))[:3]


def test_entries_are_those_of_compare_on_the_same_device(paths):
    family = weighbridge.matrix(paths, device=DEVICE)
    for i, j in ((1, 0), (0, 2), (2, 1)):
        wanted = weighbridge.compare(paths[j], paths[i], device=DEVICE).overall
        for metric in MATRIX_METRICS:
            np.testing.assert_array_equal(family[metric][i, j], wanted[f"pooled_{metric}"])
    elsewhere = weighbridge.matrix(paths, device="cpu")
    np.testing.assert_allclose(family["delta"], elsewhere["delta"], rtol=1e-12)


def test_the_tree_is_the_same(paths):
    here, there = (weighbridge.lineage(paths, device=device) for device in ("cpu", DEVICE))
    assert there.roots == here.roots
    assert [(node.relation, [parent.node for parent in node.parents]) for node in there.nodes] == [
        (node.relation, [parent.node for parent in node.parents]) for node in here.nodes
    ]


@pytest.mark.parametrize("command", ["matrix", "lineage"])
def test_a_device_that_is_none(paths, command):
    result = CliRunner().invoke(app, [command, *map(str, paths), "--device", "abacus"])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith('weighbridge: error: there is no device "abacus"')
