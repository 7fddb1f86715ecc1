"""How long does a sweep of one base against 16 others of BERT's size take, from the prompt to the last row on disk?

Timed: the whole process `weighbridge sweep BASE OTHERS… --out DIR` into a new folder, start-up, the rows of all 16 and
their way to the disk included; the 17 files of 0.44 GB lie in the page cache.
Against: `cat` of the 17 files, and 16 processes `weighbridge compare` one after the other.
That each byte is read once is counted by the kernels, in the sweep that checks the answer.
"""

import shutil

from weighbridge import compare, open_checkpoint, open_results
from weighbridge.engine.sweep import run_sweep
from weighbridge.engine.sweep_plan import plan_sweep

from measuring import bare_sum, command, in_turn, joined, joined_spans, kept_warm, spans


def test_whole_process(benchmark, recorder, weighbridge, family, tmp_path):
    base, *others = family
    outcomes = run_sweep(plan_sweep(base, others, out=tmp_path / "checked"))
    nbytes = sum(open_checkpoint(path).nbytes for path in family)
    assert sum(outcome.bytes_read for outcome in outcomes) == nbytes, "each byte once"
    results = open_results(tmp_path / "checked")
    for other in (others[0], others[-1]):
        assert results[str(other)].to_dict() == compare(base, other).to_dict()

    out = tmp_path / "out"

    def before():
        kept_warm(*family)()
        shutil.rmtree(out, ignore_errors=True)

    def one_by_one():
        for other in others:
            command(weighbridge, "compare", base, other)()

    times = in_turn(
        benchmark,
        {
            "weighbridge sweep, 16 others": command(weighbridge, "sweep", base, *others, "--out", out, "--quiet"),
            "cat of the 17 files": command("cat", *family),
            "16 times weighbridge compare": one_by_one,
            "bare sum of the 17 files": bare_sum(*joined_spans(spans(joined(*map(open_checkpoint, family))))),
        },
        rounds=5,
        before=before,
    )
    for against, asked in (("cat of the 17 files", "<= 1.5"), ("16 times weighbridge compare", ">= 2")):
        recorder(times, against=against, asked=asked, ceiling="bare sum of the 17 files", bytes=nbytes)
