"""Proof by chaos, for as long as you like: `python -m tests.chaos --seconds 600 --seed 7`.

Rounds of faults, one arrangement after the other, each with the seed that follows. Ends with 1 at the first round that found
something.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.processes import ARRANGEMENTS
from tests.chaos.round import perform

ROUND_SECONDS = 45.0


def seed_of(environment: str) -> int:
    """`CHAOS_SEED` if it is set, else any."""
    return int(environment) if environment else random.SystemRandom().randrange(1, 1_000_000)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Proof by chaos.")
    parser.add_argument("--seconds", type=float, default=180, help="of faults, all rounds together")
    parser.add_argument("--seed", type=int, help="of the first round; else CHAOS_SEED, else any")
    parser.add_argument("--round", type=float, default=ROUND_SECONDS, help="seconds of faults in one round")
    parser.add_argument(
        "--arrangement", choices=[*ARRANGEMENTS], action="append", help="this one only; may be repeated"
    )
    parser.add_argument("--keep", type=Path, help="keep what the processes said in a folder in here")
    parser.add_argument("--calm", action="store_true", help="without faults")
    parser.add_argument("--go-on", action="store_true", help="after a round that found something")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else seed_of(os.environ.get("CHAOS_SEED", ""))
    names = given.arrangement or [*ARRANGEMENTS]
    left, number, bad = given.seconds, 0, 0
    while left > 0 and (given.go_on or not bad):
        seconds = min(left, given.round)
        folder = Path(tempfile.mkdtemp(prefix="dwarf-chaos-", dir=given.keep))
        began = time.monotonic()
        try:
            arrangement = ARRANGEMENTS[names[number % len(names)]]
            result = asyncio.run(perform(arrangement, seed + number, seconds, calm=given.calm, folder=folder))
        finally:
            if not given.keep:
                shutil.rmtree(folder, ignore_errors=True)
        print(f"{result.summary()}; {time.monotonic() - began:.0f} s", flush=True)
        if result.findings:
            print(result.report(), flush=True)
            bad += 1
        left -= seconds
        number += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
