"""`bench plot` and `bench table`: what result files say, as a picture or as a table. Nothing is measured."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from . import engines, peers, picture, result
from .children import Failed


def main(argv: Sequence[str]) -> int:
    """Exit code 0: done; 1: could not."""
    args = _parser(argv[0]).parse_args(argv[1:])
    if argv[0] == "plot":
        args.out = args.out or Path("peers.svg" if args.peers else "benchmarks.png")
    try:
        if argv[0] == "plot" and not args.peers:
            asyncio.run(peers.draw(args.out, args.results))
        else:
            runs = [result.load(path) for path in args.results]
            rows = _rows(args, runs)
            if argv[0] == "table":
                sys.stdout.write(engines.markdown(rows))
                return 0
            where = f"{runs[0].machine['cpu']}, {runs[0].machine['cores']} cores for everything, {runs[0].started[:10]}"
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(picture.svg(rows, args.steps, where))
    except (Failed, OSError, ValueError) as error:
        print(f"nothing was drawn: {error}", file=sys.stderr)
        return 1
    print(f"written to {args.out}")
    return 0


def _rows(args: argparse.Namespace, runs: Sequence[result.Run]) -> list[engines.Row]:
    """Raises `ValueError` if nothing was measured."""
    quoted = [] if args.measured_only else [result.load(engines.QUOTED)]
    rows = engines.rows(runs, quoted, args.steps)
    if all(row.quoted for row in rows):
        raise ValueError(
            f"these files have no flows of {args.steps} steps of the case peers: run python -m bench peers"
        )
    return rows


def _parser(which: str) -> argparse.ArgumentParser:
    what = {
        "plot": "Draw result files as one picture: a PNG of all cases, or with --peers an SVG of all engines.",
        "table": "All engines in one table, in Markdown: the case peers, and figures measured elsewhere, marked.",
    }
    parser = argparse.ArgumentParser(prog=f"bench {which}", description=what[which])
    parser.add_argument("results", type=Path, nargs="+")
    if which == "plot":
        parser.add_argument("--out", type=Path, help="benchmarks.png, or peers.svg with --peers")
        parser.add_argument("--peers", action="store_true", help="all engines side by side, as SVG")
    parser.add_argument("--steps", type=int, default=10, help="of the flows of how many steps")
    parser.add_argument("--measured-only", action="store_true", help="leave out figures that were measured elsewhere")
    return parser
