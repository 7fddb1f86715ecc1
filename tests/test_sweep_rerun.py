"""The same sweep again: what is computed anew, what is not, and what becomes of what is gone."""

import json
import os
import shutil

import pytest
from safetensors.numpy import load_file, save_file

import weighbridge
from weighbridge.engine.errors import OptionError, OutputError
from weighbridge.engine.others import Other
from weighbridge.engine.row_table import read_parquet
from weighbridge.engine.store import Store
from weighbridge.engine.sweep import run_sweep
from weighbridge.engine.sweep_plan import plan_sweep

from support.sweeps import Silent, contents, family


@pytest.fixture
def folder(tmp_path):
    family(tmp_path, 3)
    return tmp_path


def run(folder, *others, **options):
    """Label -> what became of it."""
    others = others or [folder / "o-*"]
    plan = plan_sweep(folder / "base.safetensors", others, out=folder / "out", **options)
    return {os.path.basename(outcome.other.label)[:3]: outcome.status for outcome in run_sweep(plan)}


def change(path, by):
    save_file({name: array + array.dtype.type(by) for name, array in load_file(path).items()}, path)
    os.utime(path, ns=(1, 1))  # also where the clock of the file system is coarse


def rows_of(folder, name):
    return contents(folder / "out")[Store(folder / "out").file(str(folder / name)).name]


def test_only_what_changed_is_computed_again(folder):
    assert run(folder) == {"o-1": "done", "o-2": "done", "o-3": "done"}
    before = contents(folder / "out")
    assert run(folder) == {"o-1": "reused", "o-2": "reused", "o-3": "reused"}
    assert contents(folder / "out") == before
    change(folder / "o-2.safetensors", 0.5)
    assert run(folder) == {"o-1": "reused", "o-2": "done", "o-3": "reused"}
    found = weighbridge.open_results(folder / "out")[str(folder / "o-2.safetensors")]
    wanted = weighbridge.compare(folder / "base.safetensors", folder / "o-2.safetensors")
    assert found.to_dict() == wanted.to_dict()


def test_a_changed_base_changes_all(folder):
    run(folder)
    change(folder / "base.safetensors", 0.5)
    assert run(folder, folder / "o-1.safetensors") == {"o-1": "done"}
    # What was computed against the base as it was is no result of this sweep any more.
    assert [entry["label"] for entry in Store(folder / "out").others] == [str(folder / "o-1.safetensors")]
    assert len(list((folder / "out" / "rows").iterdir())) == 1


def test_force(folder):
    run(folder)
    before = contents(folder / "out")
    assert run(folder, force=True) == {"o-1": "done", "o-2": "done", "o-3": "done"}
    assert contents(folder / "out") == before


def test_other_options_or_another_base_need_force(folder):
    run(folder)
    with pytest.raises(OptionError, match="holds a sweep with other matching options"):
        run(folder, include=["*dense*"])
    shutil.copy(folder / "base.safetensors", folder / "base-2.safetensors")
    with pytest.raises(OptionError, match=r'holds a sweep of the base ".*base.safetensors" and this is one of'):
        plan_sweep(folder / "base-2.safetensors", [folder / "o-*"], out=folder / "out")
    assert run(folder, include=["*bias"], force=True)["o-1"] == "done"
    (line, *_) = weighbridge.open_results(folder / "out").summary()
    assert line["skipped"] == 4


def test_a_rules_file_counts_by_what_it_says(folder):
    rules = folder / "rules.toml"
    rules.write_text('[[rename]]\npattern = "nothing"\nreplacement = "x"\n')
    run(folder, rules_file=rules)
    assert set(run(folder, rules_file=rules).values()) == {"reused"}
    rules.write_text('[[rename]]\npattern = "nothing"\nreplacement = "y"\n')
    with pytest.raises(OptionError, match="other matching options"):
        run(folder, rules_file=rules)


def test_another_metric_version_is_computed_anew(folder, monkeypatch):
    run(folder)
    for module in ("sweep_plan", "sweep_record"):
        monkeypatch.setattr(f"weighbridge.engine.{module}.METRIC_VERSION", 3)
    with pytest.raises(OptionError, match="holds a sweep by metric version 2 and this is 3"):
        run(folder)
    assert set(run(folder, force=True).values()) == {"done"}


def test_others_are_added(folder):
    run(folder, folder / "o-3.safetensors")
    assert run(folder, folder / "o-1.safetensors", folder / "o-3.safetensors") == {"o-1": "done", "o-3": "reused"}
    assert len(weighbridge.open_results(folder / "out")) == 2


def test_what_failed_is_tried_again(folder):
    good = (folder / "o-2.safetensors").read_bytes()
    (folder / "o-2.safetensors").write_bytes(good[:-8])
    assert run(folder) == {"o-1": "done", "o-2": "failed", "o-3": "done"}
    (failed,) = Store(folder / "out").failures
    assert failed["label"].endswith("o-2.safetensors") and failed["reason"]
    (folder / "o-2.safetensors").write_bytes(good)
    assert run(folder) == {"o-1": "reused", "o-2": "done", "o-3": "reused"}
    assert Store(folder / "out").failures == []


def test_rows_of_a_damaged_checkpoint_go_and_those_of_a_missing_one_stay(folder):
    sources = [folder / f"o-{number}.safetensors" for number in (1, 2, 3)]
    run(folder, *sources)
    sources[0].write_bytes(b"x" * 60)
    kept = rows_of(folder, "o-2.safetensors")
    sources[1].unlink()
    assert run(folder, *sources) == {"o-1": "failed", "o-2": "kept", "o-3": "reused"}
    assert [entry["status"] for entry in Store(folder / "out").others] == ["failed", "done", "done"]
    assert rows_of(folder, "o-2.safetensors") == kept and len(list((folder / "out" / "rows").iterdir())) == 2


def test_columns_and_sources_change_without_computing(folder):
    def others(**extra):
        return [Other(str(folder / f"o-{n}.safetensors"), f"o-{n}", {"step": n, **extra}) for n in (1, 2)]

    run(folder, *others())
    plain = contents(folder / "out")
    assert set(run(folder, *others(loss=0.5)).values()) == {"reused"}
    (line, _) = weighbridge.open_results(folder / "out").summary()
    assert (line["step"], line["loss"]) == (1, 0.5)
    table, key = read_parquet(str(Store(folder / "out").file("o-1")))
    assert table.column("loss").to_pylist()[0] == 0.5 and key["types"] == {"step": "int64", "loss": "double"}
    assert set(run(folder, *others()).values()) == {"reused"}
    assert contents(folder / "out") == plain


def test_every_file_has_the_columns_of_all(folder):
    """One glob reads them all, also where a later manifest brings a column, or a step that is no integer."""
    run(folder, Other(str(folder / "o-1.safetensors"), "one", {"step": 1}))
    run(folder, Other(str(folder / "o-2.safetensors"), "two", {"step": 1.5, "run": "b"}))
    schemas = {read_parquet(str(path))[0].schema for path in (folder / "out" / "rows").iterdir()}
    assert len(schemas) == 1
    assert weighbridge.open_results(folder / "out").table(["label", "step", "run"]).to_pylist()[0] == {
        "label": "one", "step": 1.0, "run": None
    }  # fmt: skip


def test_a_folder_taken_over_is_left_alone(folder):
    """A sweep whose folder another began anew with --force stops, and puts no row of its own among the new ones."""
    plan = plan_sweep(folder / "base.safetensors", [folder / "o-*"], out=folder / "out", batch_bytes=1)
    shutil.copy(folder / "base.safetensors", folder / "base-2.safetensors")

    class Meanwhile(Silent):
        """Begins another sweep as soon as the first task of this one is done."""

        after = None

        def finished(self, nbytes, outcomes):
            if self.after is None:
                weighbridge.sweep(folder / "base-2.safetensors", [folder / "o-*"], out=folder / "out", force=True)
                self.after = contents(folder / "out")

    meanwhile = Meanwhile()
    with pytest.raises(OutputError, match=r'was taken by another sweep \(of ".*base-2.safetensors"\)'):
        run_sweep(plan, progress=meanwhile)
    assert contents(folder / "out") == meanwhile.after


def test_the_base_changes_while_it_is_swept(folder):
    plan = plan_sweep(folder / "base.safetensors", [folder / "o-*"], out=folder / "out")
    change(folder / "base.safetensors", 0.5)
    with pytest.raises(weighbridge.WeighbridgeError, match=r"the base .* changed since the sweep began"):
        run_sweep(plan)


def test_a_manifest_that_is_broken_is_one_sentence(folder):
    run(folder)
    path = folder / "out" / "sweep.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(weighbridge.WeighbridgeError, match=r"sweep.json.* cannot be read"):
        run(folder)
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(weighbridge.WeighbridgeError, match="has format 99 and this is 1"):
        run(folder)
