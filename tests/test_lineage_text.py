"""The tree as text, JSON, DOT and picture; names are data in all of them."""

import json
import xml.etree.ElementTree

import pytest

from weighbridge.engine.lineage.dot import tree_dot
from weighbridge.engine.lineage.lines import short_names, tree_text
from weighbridge.engine.lineage.tree import Node, Parent, Tree
from weighbridge.engine.plots.lineage import lineage_picture
from weighbridge.engine.report.json_text import dump

ESC = "runs/e\x1b[31mvil\n$x^2$.bin"


@pytest.fixture
def tree():
    """Every relation, certain and not."""

    def edge(node, delta, support=1.0, direction=1.0, alternatives=(), weight=None):
        return Parent(node, weight, 10 * delta, delta, support, direction, alternatives)

    return Tree(
        (
            Node("runs/start", "root", (), None, 0.6),
            Node("runs/a", "step", (edge(0, 0.01, 0.8, 0.7, ((2, 1, 0.2), (0, 4, 0.1))),), None, 0.3),
            Node('runs/"b"\\', "step", (edge(0, 0.002),), None, 0.1),
            Node("runs/half", "rounded", (edge(1, 2e-4),), "F16", 0.0),
            Node(ESC, "step", (edge(1, 0.5),), None, 0.0),
            Node("runs/mix", "merge", (edge(2, 0.04, weight=0.75), edge(1, 0.1, weight=0.25)), None, 0.0),
            Node("runs/part", "part", (edge(2, 0.0),), None, 0.0),
            Node("runs/copy", "copy", (edge(0, 0.0, direction=None),)),
            Node("runs/lone", "root", (), None, 1.0),
        ),
        notes=("runs/lone has no tensor in common with any other",),
    )


def test_text(tree):
    assert tree_text(tree) == (
        "9 checkpoints in 2 trees, names after runs/\n"
        "\n"
        "                                 relative_delta\n"
        "start                                            root 60 %, else a 30 %\n"
        "├── copy                                         copy, equal in every element\n"
        '├── "b"\\                                0.00200\n'
        "│   ├── part                                  0  the same values in what both have\n"
        '│   └── mix                             0.04000  merge: 0.75 "b"\\ + 0.25 a\n'
        '└── a                                   0.01000  edge 80 %, else from "b"\\ 20 %, else start → '
        "e\\x1b[31mvil\\n$x^2$.bin 10 %; direction 70 %\n"
        "    ├── half                           2.00e-04  rounded to F16\n"
        "    └── e\\x1b[31mvil\\n$x^2$.bin         0.50000\n"
        "lone                                             root\n"
        "\n"
        "note: runs/lone has no tensor in common with any other\n"
    )
    assert str(tree) == tree_text(tree)
    assert repr(tree) == "Tree(9 checkpoints: 2 root, 3 step, 1 rounded, 1 merge, 1 part, 1 copy)"


def test_a_deep_chain_is_drawn():
    nodes = [Node("n0", "root", (), None, 1.0)]
    nodes += [Node(f"n{k}", "step", (Parent(k - 1, None, 1.0, 0.1, 1.0, 1.0),), None, 0.0) for k in range(1, 1500)]
    assert tree_text(Tree(tuple(nodes))).count("└── n") == 1499


def test_names_after_the_folder_they_share():
    assert short_names(["a/b/c1", "a/b/c2"]) == ("a/b/", ["c1", "c2"])
    assert short_names(["a/b/c1"]) == ("", ["a/b/c1"])
    assert short_names(["x1", "x2"]) == ("", ["x1", "x2"])


def test_json(tree):
    found = json.loads(dump(tree.to_dict()))
    assert found.keys() == {"base", "roots", "checkpoints", "notes"}
    assert found["base"] is None and found["roots"] == ["runs/start", "runs/lone"]
    assert found["checkpoints"][1] == {
        "checkpoint": "runs/a",
        "relation": "step",
        "dtype": None,
        "root_probability": 0.3,
        "parents": [
            {
                "checkpoint": "runs/start",
                "weight": None,
                "distance": 0.1,
                "relative_delta": 0.01,
                "support": 0.8,
                "direction": 0.7,
                "alternatives": [
                    {"parent": 'runs/"b"\\', "child": "runs/a", "probability": 0.2},
                    {"parent": "runs/start", "child": ESC, "probability": 0.1},
                ],
            }
        ],
    }
    assert found["checkpoints"][7]["parents"][0]["direction"] is None


def test_json_of_a_parent_without_length():
    nodes = (Node("a", "root", (), None, 1.0), Node("b", "step", (Parent(0, None, 1.0, float("nan"), 1.0, 1.0),)))
    assert json.loads(dump(Tree(nodes).to_dict()))["checkpoints"][1]["parents"][0]["relative_delta"] is None


def test_dot(tree):
    text = tree_dot(tree)
    lines = text.splitlines()
    assert lines[0] == "digraph lineage {" and lines[-1] == "}" and len(lines) == 4 + 9 + 8
    assert '  n2 [label="\\"b\\"\\\\"];' in lines
    assert '  n4 [label="e\\\\x1b[31mvil\\\\n$x^2$.bin"];' in lines
    assert '  n3 [label="half\\nrounded to F16"];' in lines
    assert '  n0 -> n1 [label="0.01000", style=dashed, dir=none];' in lines
    assert '  n0 -> n2 [label="0.00200"];' in lines
    assert '  n2 -> n5 [label="0.75"];' in lines and '  n1 -> n5 [label="0.25"];' in lines
    assert '  n0 -> n7 [label="=", dir=none];' in lines


@pytest.mark.parametrize("fmt", ["png", "svg", "html"])
def test_picture(tree, fmt):
    data = lineage_picture(tree, fmt, "<pre>the text</pre>")
    if fmt == "png":
        assert data.startswith(b"\x89PNG") and len(data) > 10_000
        return
    text = data.decode()
    assert "\x1b" not in text and "<script" not in text
    assert ("<pre>the text</pre>" in text) == (fmt == "html")
    svg = text[text.index("<svg") : text.index("</svg>") + 6]
    assert len(list(xml.etree.ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"))) > 20
    assert lineage_picture(tree, fmt, "<pre>the text</pre>") == data


def test_picture_of_one():
    assert lineage_picture(Tree((Node("alone", "root", (), None, 1.0),)), "svg").startswith(b"<?xml")
