"""A real training run swept: MiniLM fine-tuned with a checkpoint after each of 20 steps, and its drift by an oracle."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli import app
from weighbridge.engine.report.notebook import notebook_text

from support import minilm

pytestmark = pytest.mark.slow

STEPS = 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with its embeddings frozen: the first checkpoint whole, the others what was trained."""
    root = tmp_path_factory.mktemp("run")

    def saved(step, model):
        folder = root / f"checkpoint-{step}"
        if step == 1:
            model.save_pretrained(folder)
        else:
            folder.mkdir()
            trained = {name: t for name, t in model.state_dict().items() if not name.startswith("embeddings")}
            save_file(trained, folder / "model.safetensors")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that spin for each other take minutes where the processors are busy
    minilm.fine_tuned(STEPS, saved, frozen="embeddings", batch=(4, 8))
    yield root
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def results(run):
    return weighbridge.sweep(minilm.folder(), [run / "checkpoint-*"], out=run / "out")


def test_every_step_in_natural_order_and_nothing_failed(results, run):
    assert results.labels == [str(run / f"checkpoint-{step}") for step in range(1, STEPS + 1)]
    assert results.failures == [] and results.pending == 0


def test_the_drift_curve_is_the_oracles(results, run):
    """sqrt(Σ(x-y)² / Σy²) over all tensors of a checkpoint as one vector, in float64 by torch."""
    base = load_file(minilm.folder() / "model.safetensors")
    for line in results.summary()[::4]:
        other = load_file(f"{line['label']}/model.safetensors")
        squares = [(other[name].double() - base[name].double()).square().sum() for name in other]
        before = [base[name].double().square().sum() for name in other]
        wanted = math.sqrt(math.fsum(map(float, squares)) / math.fsum(map(float, before)))
        assert line["pooled_relative_delta"] == pytest.approx(wanted, rel=1e-12) and line["matched"] == len(other)
    drift = np.array([line["pooled_relative_delta"] for line in results.summary()])
    assert drift[-1] > 2 * drift[1] > 0  # trained away from where it began


@pytest.mark.parametrize("step", [1, 2, 7, STEPS])
def test_each_step_is_what_compare_says(results, run, step):
    label = str(run / f"checkpoint-{step}")
    wanted = weighbridge.compare(minilm.folder(), label)
    got = results[label]
    for name in ("other_self", "base_self", "pair"):
        assert getattr(got, name).tobytes() == getattr(wanted, name).tobytes()
    assert got.to_dict() == wanted.to_dict()
    assert notebook_text(got) == notebook_text(wanted)


FORMATS = ["--format table", "--format json", "--format csv", "--format tsv --by kind", "--format markdown"]
FORMATS += ["--format notebook", "--by layer", "--by tensor --sort max_delta --top 3000"]


@pytest.mark.parametrize("options", FORMATS)
def test_every_format_comes_out(results, options):
    result = CliRunner().invoke(app, ["show", str(results.path), *options.split()], catch_exceptions=False)
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.count(f"checkpoint-{STEPS}") > 0


@pytest.mark.parametrize("suffix", ["png", "svg", "html"])
def test_every_picture_comes_out(results, tmp_path, suffix):
    path = tmp_path / f"drift.{suffix}"
    result = CliRunner().invoke(app, ["show", str(results.path), "--plot", str(path)], catch_exceptions=False)
    assert result.exit_code == 0 and path.stat().st_size > 10_000


def test_the_run_could_not_be_told_from_noise_by_a_wrong_base(results, run):
    """The check above can fail: against another step as the base the curve is another."""
    wrong = load_file(run / "checkpoint-3" / "model.safetensors")
    other = load_file(run / "checkpoint-9" / "model.safetensors")
    squares = sum((other[name].double() - wrong[name].double()).square().sum() for name in other)
    norm = sum(tensor.double().square().sum() for tensor in wrong.values())
    assert results.summary()[8]["pooled_relative_delta"] != pytest.approx(float(torch.sqrt(squares / norm)), rel=1e-3)
