"""Proof by chaos: while replicas, workers, nats-server and databases are killed, frozen, drained and restarted at random, every
flow comes to the end it should, and nothing takes effect twice (B1-B3, B6, X1, X11, F1-F7, O1, P1-P3).

The seed is in the message; `CHAOS_SEED` sets it, `python -m tests.chaos` runs longer (`make chaos SECONDS=600`).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.__main__ import seed_of
from tests.chaos.processes import ARRANGEMENTS, Arrangement
from tests.chaos.round import perform

pytestmark = pytest.mark.slow
SECONDS = {"postgres": 16, "shards": 14, "quiet": 12, "sqlite": 8}
"""Of faults: one PostgreSQL; two of them as two shards; one, the replicas without signals; one replica on SQLite."""


@pytest.mark.parametrize("name", ARRANGEMENTS)
async def test_every_flow_ends_as_it_should_whatever_breaks(name: str, tmp_path: Path) -> None:
    seed = seed_of(os.environ.get("CHAOS_SEED", ""))
    print(f"chaos: arrangement {name}, seed {seed}")
    result = await perform(ARRANGEMENTS[name], seed, SECONDS[name], folder=tmp_path)
    print(result.summary())
    assert not result.findings, result.report()
    assert len(result.evidence.tickets) > 10


async def test_nothing_is_left_behind_by_a_round_that_breaks(tmp_path: Path) -> None:
    """Not even what stood still."""
    installations = []

    async def broken() -> None:
        async with Arrangement("broken", 0, replicas=1, workers=1).built(tmp_path) as installation:
            installations.append(installation)
            installation.workers[0].freeze()
            assert all(one.running for one in installation.members)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await broken()
    assert not any(one.running for one in installations[0].members)
