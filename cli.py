"""The command line: arguments -> one engine call -> printing.

Only typer, the errors and what signals do are imported here; each command imports what it needs, so that `--help` and
`--version` cost no more than typer itself.
"""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .arguments import (
    MATCHING,
    RUNNING,
    By,
    CompareFormat,
    Format,
    LineageFormat,
    Matching,
    MatrixFormat,
    OutputOption,
    PlotKind,
    QuietOption,
    Running,
    ThreadsOption,
    grouped,
)
from .engine.errors import DeviceError, OptionError, WeighbridgeError
from .engine.interrupts import farewell, kept_words, leaving, matrix_words, say_farewell, sweep_words

__all__ = ["app", "main"]

HELD, TROUBLE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="weighbridge",
    help="Compare the weights of neural-network checkpoints, tensor by tensor. "
    "A checkpoint is a safetensors file, a PyTorch pickle, a folder of either, or a Hugging Face hub id.",
    epilog="Exit status: 0 done, 1 a --fail-if condition held, 2 trouble (one sentence on stderr).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help as plain text: importing rich takes longer than everything else in --help
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"weighbridge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _complain(text: object) -> None:
    from .engine.report.text import plain

    if sys.stderr is not None:
        lines = "\n".join(plain(line) for line in str(text).split("\n"))
        encoding = sys.stderr.encoding or "utf-8"
        print(lines.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)


def _error(error: WeighbridgeError) -> None:
    # One line, whatever a name in the sentence holds.
    _complain(f"weighbridge: error: {error!s}".replace("\n", "\\n"))


def _command(body: Callable[..., int | None]) -> Callable[..., None]:
    """A command of the app: its errors become one sentence and exit 2, Ctrl-C and SIGTERM become exit 130 and 143."""

    @wraps(body)
    def command(*args: Any, **kwargs: Any) -> None:
        try:
            with leaving(_complain):
                code = body(*args, **kwargs) or 0
        except WeighbridgeError as error:
            _error(error)
            code = TROUBLE
        except MemoryError:
            _error(OptionError("memory does not suffice; give it more, or use fewer --threads and --io pread."))
            code = TROUBLE
        except KeyboardInterrupt as interrupt:
            say_farewell(_complain)
            code = getattr(interrupt, "status", INTERRUPTED)
        raise typer.Exit(code)

    shown = grouped(command)
    app.command()(shown)
    return shown


@_command
def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The checkpoint compared against.")],
    others: Annotated[list[str], typer.Argument(metavar="OTHER...", help="The checkpoints under study.")],
    matching: Matching = MATCHING,
    running: Running = RUNNING,
    by: Annotated[
        By | None, typer.Option(help="What a line stands for; by default a kind, in csv and tsv a tensor.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="Order by this metric, most changed first; relative_delta by default."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many tensors to show, 0 for all; by default 10 in table and markdown."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="The metrics to show; all of them in csv, tsv and json.")
    ] = None,
    format: Annotated[CompareFormat, typer.Option(help="How to print it.")] = CompareFormat.table,
    output: OutputOption = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Exit 1 if it holds, as in 'max_delta > 1e-6', 'layer_norm_bias.delta > 0.01' or 'only_in_base > 0'; "
            "repeatable. NaN makes it hold.",
        ),
    ] = None,
    quiet: QuietOption = False,
) -> int:
    """Compare one or more checkpoints with a base."""
    from .engine import gate
    from .engine.report.sink import ComparisonSink, Output
    from .engine.report.view import View

    # Everything that a typing mistake can spoil is found out before the first byte is read.
    conditions = [gate.parse(text) for text in fail_if or ()]
    view = View.checked(by.value if by else None, sort, top, metrics)
    if format is CompareFormat.notebook and view != View():
        raise OptionError("--format notebook is fixed; leave out --by, --sort, --top and --metrics.")
    sink = ComparisonSink(Output(output), format.value, view, several=len(others) > 1)

    from .engine.compare import compare as compare_checkpoints
    from .engine.devices import look_for
    from .engine.formats import open_checkpoint
    from .engine.progress import reporting

    look_for(running.device, running.device_memory)  # once, and not for each of the others
    opened = open_checkpoint(base)
    code, findings = 0, []
    for source in others:
        try:
            with farewell(lambda: sink.state(len(others))), reporting(source, not quiet) as progress:
                comparison = compare_checkpoints(
                    opened,
                    source,
                    **matching.keywords(),
                    **running.keywords(),
                    progress=progress,
                    say=progress.say if progress else None,
                )
        except WeighbridgeError as error:
            # The others are still compared and printed.
            _error(error)
            code = TROUBLE
            continue
        sink.add(comparison)
        for condition in conditions:
            try:
                findings += gate.check([condition], comparison)
            except WeighbridgeError as error:
                _error(error)
                code = TROUBLE
        if sink.output.closed_by_reader and not conditions:
            break
    try:
        sink.close()
    except WeighbridgeError as error:
        _error(error)
        code = TROUBLE
    for finding in findings:
        _complain(f"weighbridge: {finding}")
    return code or (HELD if findings else 0)


@_command
def match(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The checkpoint compared against.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The checkpoint under study.")],
    matching: Matching = MATCHING,
    format: Annotated[Format, typer.Option(help="How to print it.")] = Format.table,
    output: OutputOption = None,
) -> None:
    """Print which tensors belong together, reading none."""
    from .engine.report.sink import Output, drawer

    out = Output(output)

    from .engine.compare import match as match_checkpoints

    ledger = match_checkpoints(
        base,
        other,
        **matching.keywords(),
    )
    if format is Format.json:
        from .engine.report.json_text import dump
        from .engine.table import ledger_dict

        out.write(dump(ledger_dict(ledger)))
    elif format in (Format.csv, Format.tsv):
        from .engine.report.delimited import ledger_delimited

        out.write(ledger_delimited(ledger, format.value))
    else:
        from .engine.report.ledger import ledger_document
        from .engine.report.markdown import markdown

        document = ledger_document(ledger)
        out.write(markdown(document) if format is Format.markdown else drawer(out)(document))
    out.close()


@_command
def inspect(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The checkpoint to look into.")],
    stats: Annotated[
        bool, typer.Option("--stats", help="Read the tensors: mean, mean_abs, l2, max_abs, nonfinite.")
    ] = False,
    running: Running = RUNNING,
    format: Annotated[Format, typer.Option(help="How to print it.")] = Format.table,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print a checkpoint's tensors, dtypes, shapes and sizes."""
    from .engine.report.sink import Output, drawer

    out = Output(output)

    from .engine.compare import inspect as inspect_checkpoint
    from .engine.progress import reporting

    with reporting(checkpoint, not quiet) as progress:
        inspection = inspect_checkpoint(
            checkpoint,
            stats=stats,
            **running.keywords(),
            progress=progress,
            say=progress.say if progress else None,
        )
    if format is Format.json:
        from .engine.report.json_text import dump

        out.write(dump(inspection.to_dict()))
    elif format in (Format.csv, Format.tsv):
        from .engine.report.delimited import inspection_delimited

        out.write(inspection_delimited(inspection, format.value))
    else:
        from .engine.report.contents import inspection_document
        from .engine.report.markdown import markdown

        document = inspection_document(inspection)
        out.write(markdown(document) if format is Format.markdown else drawer(out)(document))
    out.close()


@_command
def sweep(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The checkpoint compared against.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder of results.")],
    others: Annotated[
        list[str] | None,
        typer.Argument(metavar="OTHER...", help="Paths, globs and hub ids of the checkpoints under study."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="More of them: one per line, CSV or JSON lines.")
    ] = None,
    matching: Matching = MATCHING,
    running: Running = RUNNING,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes on this machine.")] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Compute on this Ray cluster; auto: the one of this machine."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compute again what is there.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first checkpoint that fails.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")] = False,
    quiet: QuietOption = False,
) -> int:
    """Compare one base with many others; resumable."""
    from .engine.sweep import run_sweep
    from .engine.sweep_plan import estimated_seconds, plan_sweep
    from .engine.sweep_progress import SweepProgress

    progress = SweepProgress(not quiet)
    plan = plan_sweep(
        base,
        others or (),
        out=out,
        manifest=manifest,
        **matching.keywords(),
        **running.keywords(),
        workers=workers,
        cluster=cluster,
        force=force,
        strict=strict,
        say=progress.say,
    )
    if dry_run:
        from .engine.report.text import count

        seconds = estimated_seconds(plan)
        about = "" if seconds is None else f", about {seconds:,.1f} s"
        typer.echo(
            f"{count(len(plan.others), 'other')}, {plan.count('reused'):,} computed already, "
            f"{plan.count('failed') + plan.count('kept'):,} cannot be opened"
        )
        typer.echo(f"{count(len(plan.tasks), 'task')}, {plan.nbytes:,} bytes to read{about}")
        outcomes = list(plan.known)
    else:
        with farewell(lambda: sweep_words(out)):
            try:
                outcomes = run_sweep(plan, workers, cluster, progress)
            except DeviceError as error:
                raise DeviceError(f"{str(error).removesuffix('.')}; {kept_words(out)}.") from error
    trouble = [outcome for outcome in outcomes if outcome.reason]
    for outcome in trouble:
        _complain(f"weighbridge: {outcome.other.label} {outcome.status}: {outcome.reason}")
    return TROUBLE if trouble else 0


@_command
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a sweep.")],
    by: Annotated[By | None, typer.Option(help="A line per other and kind, layer or tensor; else per other.")] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Order by this metric, most changed first.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", help="How many lines, 0 for all; by default 20 in tables of tensors.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="The metrics to show; all of them in csv, tsv and json.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Show what it holds for, as in 'pooled_delta > 1e-3', 'kind == all_bias', 'label == run*' or "
            "'step >= 100'; repeatable.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw as well: .png, .svg or .html (needs weighbridge[plot]).")
    ] = None,
    plot_kind: Annotated[
        PlotKind, typer.Option(help="Lines by kind, a heat map of layers and others, or both.")
    ] = PlotKind.both,
    metric: Annotated[str, typer.Option(metavar="METRIC", help="What is drawn, pooled.")] = "relative_delta",
    x: Annotated[str | None, typer.Option("--x", metavar="COLUMN", help="Draw over this extra column.")] = None,
    format: Annotated[CompareFormat, typer.Option(help="How to print it.")] = CompareFormat.table,
    output: OutputOption = None,
) -> int:
    """Print and draw the results of a sweep."""
    from .engine.metrics import METRICS
    from .engine.options import named
    from .engine.report.sink import Output
    from .engine.report.view import View

    view = View.checked(by.value if by else None, sort, top, metrics)
    named(metric, METRICS, "metric", "--metric")
    if format is CompareFormat.notebook and view != View():
        raise OptionError("--format notebook is fixed; leave out --by, --sort, --top and --metrics.")
    out = Output(output)
    if plot is not None:
        from .engine.plots.figure import check_plot
        from .engine.report.files import check_writable

        check_plot(plot)
        check_writable(plot)

    from .engine.report.showing import draw_results, print_results
    from .engine.results import open_results

    results = open_results(folder)
    print_results(results, out, format.value, view, where or ())
    if plot is not None:
        draw_results(results, plot, view, where or (), plot_kind.value, metric, x)
    if format not in (CompareFormat.table, CompareFormat.markdown):
        from .engine.report.sweep_lines import states

        for line in states(results):
            _complain(f"weighbridge: {line}")
    for entry in results.damaged:
        _complain(f"weighbridge: error: {entry['reason']}")
    return TROUBLE if results.damaged else 0


@_command
def matrix(
    checkpoints: Annotated[list[str], typer.Argument(metavar="CKPT...", help="Two or more checkpoints.")],
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="What they were trained from: adds the cosine of task vectors.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the sums there; a run that was stopped goes on.")
    ] = None,
    matching: Matching = MATCHING,
    running: Running = RUNNING,
    by: Annotated[By | None, typer.Option(help="A matrix for every kind, layer or tensor.")] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="The metrics to compute; all of them by default.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw a clustered heat map: .png, .svg or .html (needs weighbridge[plot])."),
    ] = None,
    metric: Annotated[str | None, typer.Option(metavar="METRIC", help="What is drawn; relative_delta.")] = None,
    format: Annotated[
        MatrixFormat, typer.Option(help="How to print it; npz and parquet need -o.")
    ] = MatrixFormat.table,
    output: OutputOption = None,
    force: Annotated[bool, typer.Option("--force", help="Throw away what is in --out.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Compare every two of many, each file read once."""
    from .engine.matrix import matrix as matrix_of
    from .engine.progress import reporting
    from .engine.report.all_pairs import MatrixOutput

    grouping = by.value if by else None
    result = MatrixOutput(output, format.value, grouping, plot, metric, metrics, base is not None)
    with farewell(lambda: matrix_words(out)), reporting(f"{len(checkpoints)} checkpoints", not quiet) as progress:
        found = matrix_of(
            checkpoints,
            base=base,
            metrics=metrics,
            out=out,
            force=force,
            **matching.keywords(),
            **running.keywords(),
            progress=progress,
            say=progress.say if progress else None,
        )
    result.write(found)


@_command
def lineage(
    checkpoints: Annotated[list[str], typer.Argument(metavar="CKPT...", help="The checkpoints of the family.")],
    base: Annotated[
        str | None, typer.Option(metavar="CKPT", help="The one that its relatives descend from; else the weights tell.")
    ] = None,
    matching: Matching = MATCHING,
    running: Running = RUNNING,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw as well: .png, .svg or .html (needs weighbridge[plot]).")
    ] = None,
    format: Annotated[LineageFormat, typer.Option(help="How to print it; dot is for Graphviz.")] = LineageFormat.table,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print the tree that checkpoints came from."""
    from .engine.report.sink import Output

    out = Output(output)
    if plot is not None:
        from .engine.plots.figure import check_plot
        from .engine.report.files import check_writable

        check_plot(plot)
        check_writable(plot)

    from .engine.lineage.acts import lineage as lineage_of
    from .engine.lineage.printing import draw_tree, print_tree
    from .engine.progress import reporting

    with reporting(f"{len(checkpoints)} checkpoints", not quiet) as progress:
        tree = lineage_of(
            checkpoints,
            base=base,
            **matching.keywords(),
            **running.keywords(),
            progress=progress,
            say=progress.say if progress else None,
        )
    print_tree(tree, out, format.value)
    if plot is not None:
        draw_tree(tree, plot)


@_command
def demo(
    full: Annotated[
        bool, typer.Option("--full", help="The true sizes (5.3 GB) instead of an eighth of each width.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to; demo-checkpoints by default.")] = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write BERT and five kin of random weights; compare."""
    from .engine.demo import BASE, DEFAULT_OUT, OTHERS, run
    from .engine.report.notebook import notebook_text
    from .engine.report.sink import Output

    screen = Output()
    say: Callable[[str], None] | None = (lambda text: None) if quiet else None
    for comparison in run(full, out, threads, say):
        screen.write(notebook_text(comparison))
    folder = out or DEFAULT_OUT
    screen.write(
        f"The checkpoints are in {folder}; for example\n  weighbridge compare {folder / BASE} {folder / OTHERS[0]}\n"
    )


def main() -> None:
    """The entry point of the `weighbridge` command."""
    try:
        app(prog_name="weighbridge")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
