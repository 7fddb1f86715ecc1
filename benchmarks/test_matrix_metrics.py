"""What do all pairs cost when one metric is asked for, and not all?

Timed: `weighbridge.matrix` of 16 checkpoints of BERT's size (0.44 GB each, float32) in the page cache, with
`metrics="delta"`, "cosine" and "changed", to the last matrix; machine code and headers are there before.
Against: the same with all metrics. That each gives the same bits as among all is checked first.
"""

import numpy as np

import weighbridge as library

from measuring import Times, bare_sum, in_turn, kept_warm

ALL = "all metrics"
ASKED = {"delta": "<= 0.8", "cosine": "<= 0.8", "changed": "<= 0.6"}


def test_one_metric(benchmark, recorder, family):
    paths = family[:16]
    opened = [library.open_checkpoint(path) for path in paths]
    nbytes = sum(checkpoint.nbytes for checkpoint in opened)

    def matrices(metrics=None):
        found = library.matrix(opened, metrics=metrics, device="cpu")
        assert found.bytes_read == nbytes
        return found.overall

    wanted = matrices()
    for metric in ASKED:
        found = matrices(metric)
        assert list(found.pooled) == [metric]
        for one, other in ((found.pooled, wanted.pooled), (found.means, wanted.means)):
            np.testing.assert_array_equal(one[metric], other[metric])
    ceiling = "bare sum of the 16 files"
    times = in_turn(
        benchmark,
        {f"{metric} alone": lambda metric=metric: matrices(metric) for metric in ASKED}
        | {ALL: matrices, ceiling: bare_sum(*paths)},
        before=kept_warm(*paths),
        rounds=5,
        untimed=False,
    )
    for metric, asked in ASKED.items():
        names = (f"{metric} alone", ALL, ceiling)
        row = Times({name: times.seconds[name] for name in names})
        recorder(row, against=ALL, asked=asked, ceiling=ceiling, bytes=nbytes)
