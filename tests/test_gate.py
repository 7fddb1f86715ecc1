"""Conditions that fail a release."""

import numpy as np
import pytest

from weighbridge.engine import gate
from weighbridge.engine.errors import OptionError

from support.tables import compared, small


def holds(text, comparison):
    return bool(gate.check([gate.parse(text)], comparison))


@pytest.fixture(scope="module")
def comparison():
    return small()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_delta > 1e-6", True),
        ("max_delta>1", False),
        ("max_delta >= 1", True),
        ("  max_delta  >  1.5 ", False),
        ("cosine < 0.9", False),
        ("cosine < 0.999", True),
        ("delta == 0", True),
        ("nonfinite != 0", False),
        ("l2 > 1e309", False),  # infinity
        ("only_in_base > 0", True),
        ("only_in_base > 1", False),
        ("matched < 197", True),
        ("matched != 8", False),
        ("skipped == 1", True),
        ("layer_norm_bias.delta > 0", False),
        ("normal_bias.delta > 0.1", True),
        ("all_bias.delta > 0.1", False),
        ("all_bias.pooled_delta > 0.0624", True),
        ("normal_weight.max_delta >= 1", True),
        ("pooled_relative_delta > 0.5", False),
        ("other.delta > 0", False),
        ("other == 11", True),
    ],
)
def test_conditions(comparison, text, expected):
    assert holds(text, comparison) is expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not of the form 'METRIC OP NUMBER'"),
        ("max_delta", "is not of the form"),
        ("max_delta = 1", "is not of the form"),
        ("max_delta > ", "is not of the form"),
        ("max_delta > 1 and delta > 1", "is not of the form"),
        ("max_delta > x", "compares with 'x', which is no number"),
        ("max_delta > nan", "which is no number"),
        ("max_delat > 1", 'there is no metric or total "max_delat".*did you mean "max_delta"'),
        ("matchd < 1", 'did you mean "matched"'),
        ("layer_norm.delta > 1", 'there is no kind "layer_norm"'),
        ("all_bias.matched > 1", 'there is no metric "matched"'),
    ],
)
def test_what_cannot_be_parsed_is_one_sentence(text, sentence):
    with pytest.raises(OptionError, match=sentence) as caught:
        gate.parse(text)
    assert "\n" not in str(caught.value)


ZERO, ONE = [0.0, 0.0], [1.0, 0.0]


@pytest.mark.parametrize("text", ["cosine < 0.999", "cosine_distance > 0", "relative_delta > 0", "changed > 0"])
@pytest.mark.parametrize("prefix", ["", "all_bias.", "pooled_", "all_bias.pooled_"])
def test_equal_zero_tensors_pass(prefix, text):
    assert not holds(prefix + text, compared({"a.bias": ZERO}, {"a.bias": ZERO}))


@pytest.mark.parametrize("text", ["cosine < 0.999", "all_bias.cosine < 0.999", "pooled_cosine < 0.999"])
@pytest.mark.parametrize(("base", "other"), [(ZERO, ONE), (ONE, ZERO)])
def test_zero_against_something_fails(text, base, other):
    assert holds(text, compared({"a.bias": base}, {"a.bias": other}))


def test_a_lost_bias_is_not_hidden_by_the_mean_of_its_kind():
    base = {"a.bias": ONE, "b.bias": ONE, "c.bias": ONE}
    assert not holds("all_bias.cosine < 0.9", compared(base, base))
    assert holds("all_bias.cosine < 0.9", compared(base, base | {"b.bias": ZERO}))


def test_a_bias_that_was_zero_is_not_hidden_by_the_mean_of_its_kind():
    base = {"a.bias": ONE, "b.bias": ZERO, "c.bias": ONE}
    assert not holds("all_bias.relative_delta > 0.5", compared(base, base))
    assert holds("all_bias.relative_delta > 0.5", compared(base, base | {"b.bias": ONE}))
    assert not holds("all_bias.relative_delta < 0.5", compared(base, base | {"b.bias": ONE}))


@pytest.mark.parametrize("seed", range(10))
def test_lost_bias_fails_by_its_distance(seed):
    """sum d^2 - (sum x^2 / |x|)^2 is rounding noise where y is 0; divided by 0 it must not become a number."""
    bias = np.random.default_rng(seed).normal(size=33)
    assert holds("cosine_distance > 0.1", compared({"a.bias": bias}, {"a.bias": 0 * bias}))
    assert holds("all_bias.cosine_distance > 0.1", compared({"a.bias": 0 * bias}, {"a.bias": bias}))


def test_equal_zero_tensor_does_not_disturb_its_kind():
    base = {"a.bias": ONE, "b.bias": ZERO}
    assert not holds("all_bias.cosine < 0.9", compared(base, base))


@pytest.mark.parametrize(
    "text", ["delta > 1e9", "max_delta < 0", "cosine == 7", "all_bias.delta > 1e9", "pooled_delta < 0"]
)
@pytest.mark.parametrize(
    ("base", "other"), [(ONE, [np.nan, 0.0]), ([np.nan, 0.0], ONE), ([np.nan, 0.0], [np.nan, 0.0])]
)
def test_nan_never_passes(text, base, other):
    assert holds(text, compared({"a.bias": base}, {"a.bias": other}))


def test_equal_infinities_do_not_pass():
    assert holds("delta > 0", compared({"a.bias": [np.inf]}, {"a.bias": [np.inf]}))


def test_empty_tensors_pass():
    empty = {"a.bias": np.zeros(0)}
    for metric in ("delta", "cosine", "mean_abs"):
        assert not holds(f"{metric} > 1", compared(empty, empty))


def test_kind_without_tensors_cannot_be_tested(comparison):
    only_weights = compared({"a.weight": [1.0]}, {"a.weight": [1.0]})
    with pytest.raises(OptionError, match="no tensor of kind layer_norm_bias was compared between other and base"):
        holds("layer_norm_bias.delta > 1", only_weights)


def test_finding_names_the_worst_ten_and_counts_the_rest():
    base = {f"layer.{index}.weight": [0.0] for index in range(14)}
    other = {f"layer.{index}.weight": [float(index)] for index in range(14)}
    (finding,) = gate.check([gate.parse("max_delta > 1.5")], compared(base, other))
    lines = str(finding).splitlines()
    assert lines[0] == "--fail-if 'max_delta > 1.5' holds for 12 of 14 matched tensors (other against base)"
    assert lines[1] == "  layer.13.weight  max_delta = 13"
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 12


def test_worst_is_in_the_direction_of_the_condition():
    (finding,) = gate.check([gate.parse("mean_abs < 5")], compared(*[{"a.weight": [3.0], "b.weight": [1.0]}] * 2))
    assert [name for name, _ in finding.tensors] == ["b.weight", "a.weight"]


def test_totals_name_their_tensors(comparison):
    findings = gate.check([gate.parse("only_in_base > 0"), gate.parse("matched < 100")], comparison)
    assert [name for name, _ in findings[0].tensors] == ["gone.bias"]
    assert [name for name, _ in findings[1].tensors] == ["odd.weight", "new.weight", "mask.weight"]


def test_names_are_escaped():
    name = "a\x1b[31m\n.weight"
    (finding,) = gate.check([gate.parse("delta > 0")], compared({name: [0.0]}, {name: [1.0]}))
    assert "\x1b" not in str(finding) and "a\\x1b[31m\\n.weight" in str(finding)
