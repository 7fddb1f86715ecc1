"""What does each of 1,000 small checkpoints cost in a sweep, over the reading of its bytes?

Timed: the whole process `weighbridge sweep` of a base of 131 kB against 1,000 others like it, written to disk.
Against: a wait of 5 ms for each other, which is what was asked for. Reading the 131 MB takes next to nothing.
"""

import itertools
import shutil

import numpy as np

from weighbridge import compare, open_results
from weighbridge.engine.sweep import run_sweep
from weighbridge.engine.sweep_plan import plan_sweep

from measuring import command, in_turn, related, scaled, write

MANY, EACH_SECONDS = scaled(1000), 0.005


def test_whole_process(benchmark, recorder, weighbridge, tmp_path):
    shapes = {f"layer.{number}.dense.weight": (64, 64) for number in range(8)}
    drawn = related("F32")
    base = write(tmp_path / "base.safetensors", shapes, "F32", itertools.repeat(drawn.base))
    others = [write(tmp_path / "others" / "1.safetensors", shapes, "F32", itertools.repeat(drawn.other))]
    for number in range(2, MANY + 1):
        others.append(others[0].with_name(f"{number}.safetensors"))
        shutil.copyfile(others[0], others[-1])
    outcomes = run_sweep(plan_sweep(base, others, out=tmp_path / "checked"))
    assert [outcome.status for outcome in outcomes] == ["done"] * MANY
    found = open_results(tmp_path / "checked")[str(others[-1])]
    np.testing.assert_array_equal(found.pair, compare(base, others[-1]).pair)

    out = tmp_path / "out"
    quoted = others[0].with_name("*.safetensors")
    times = in_turn(
        benchmark,
        {
            f"weighbridge sweep, {MANY:,} others of 131 kB": command(
                weighbridge, "sweep", base, quoted, "--out", out, "--quiet"
            ),
            "5 ms for each": command("sleep", str(MANY * EACH_SECONDS)),
            "cat of the files": command("cat", base, *others),
        },
        rounds=3,
        before=lambda: shutil.rmtree(out, ignore_errors=True),
    )
    nbytes = sum(path.stat().st_size for path in (base, *others))
    recorder(times, against="5 ms for each", asked="<= 1.0", ceiling="cat of the files", bytes=nbytes)
