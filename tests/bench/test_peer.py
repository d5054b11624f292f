"""How flows of other engines are run and timed, on an engine made here."""

from __future__ import annotations

import pytest

from bench.peer import Lane, Lanes
from bench.peers import CONSTRAINTS, pinned


class Engine:
    """Gives lanes whose flows end with `n`."""

    def __init__(self, n: int) -> None:
        self.made = self.ran = 0
        self._n = n

    async def make(self) -> Lane:
        self.made += 1

        async def lane() -> int:
            self.ran += 1
            return self._n

        return lane


async def test_lanes_are_made_once_and_run_all_flows() -> None:
    engine = Engine(3)
    lanes = Lanes(engine.make, 3)
    assert (await lanes.run({"flows": 10, "concurrency": 4}))["flows"] == 10
    assert (await lanes.run({"flows": 5, "concurrency": 2}))["flows"] == 5
    assert (engine.made, engine.ran) == (4, 15)


async def test_after_the_time_of_a_round_no_further_flow_starts() -> None:
    """Slow engines are not let run all flows, but each client runs one."""
    engine = Engine(3)
    assert (await Lanes(engine.make, 3).run({"flows": 50, "concurrency": 4, "seconds": 0}))["flows"] == 4


async def test_a_flow_that_ends_otherwise_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="2 instead of 3"):
        await Lanes(Engine(2).make, 3).run({"flows": 1, "concurrency": 1})


def test_the_peers_are_pinned_by_name_and_version_only() -> None:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "/" not in line for line in lines)
    assert set(pinned()) == {"dbos", "langgraph", "langgraph-checkpoint-postgres", "restate-sdk", "temporalio"}
    assert set(pinned()) <= {line.split("==")[0] for line in lines}
