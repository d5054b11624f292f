"""`bench sizing A.json …`: fit the model, say how well it fits, and write the tables of the sizing page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import result
from .sizing import LADDER, Bounds, fit, points_of
from .sizing_table import PAGE, renewed, sections, worst

_WORST = 5
_USUAL = Bounds()


def main(argv: Sequence[str]) -> int:
    """Exit code 0: done; 1: the runs or the page do not have what is needed."""
    args = _parser().parse_args(argv)
    bounds = Bounds(args.utilisation, args.database_cores, args.log_mb_per_s)
    try:
        runs = [result.load(path) for path in args.results]
        parts = sections(runs, bounds, args.steps_per_s or LADDER)
        if args.write:
            args.write.write_text(renewed(args.write.read_text(), parts))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for name, text in parts.items():
        print(f"{name.capitalize()}:\n\n{text}\n")
    points = points_of(runs)
    for one in worst(fit(points), points, _WORST):
        print(
            f"{one.point.label}: {one.part} measured {one.measured:.3g}, modelled {one.modelled:.3g} ({one.share:+.0%})"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench sizing",
        description=__doc__,
        epilog="Results of the cases capacity, offered and coordination; also cores, database and shards, if you ran them.",
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument(
        "--steps-per-s", type=int, action="append", help="a row of the table, instead of the usual ones"
    )
    parser.add_argument("--utilisation", type=float, default=_USUAL.utilisation, help="share of a core to plan with")
    parser.add_argument(
        "--database-cores", type=int, default=_USUAL.database_cores, help="cores of one PostgreSQL server"
    )
    parser.add_argument("--log-mb-per-s", type=float, default=_USUAL.log_mb_per_s, help="log that one server may write")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, help="write the tables of this page; the sizing page by default"
    )
    return parser
