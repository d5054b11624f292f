"""The harness runs: every flow completes on each arm. How fast is no matter of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.arms import Servers, Sides
from bench.cases import Plan, run_cases
from bench.result import FLOOR
from dwarf_nats.dev_servers import NatsServer, PostgresServer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("sdk_worker", [False, True])
async def test_flows_complete_on_every_arm(
    nats_server: NatsServer, postgres: PostgresServer, tmp_path: Path, sdk_worker: bool
) -> None:
    servers = Servers(postgres.dsn(), nats_server.url, tmp_path)
    arms = [FLOOR, "postgresql", "sqlite"]
    told: list[str] = []
    plan = Plan("floor-linear", 4, 12)
    cases = await run_cases([plan], arms, servers, Sides(steps=3, sdk_worker=sdk_worker), 1, told.append)
    assert [arm.name for arm in cases[0].arms] == arms
    for arm in cases[0].arms:
        assert [(one.flows, one.steps) for one in arm.rounds] == [(12, 36)]
    assert list(cases[0].arms[0].all_costs()) == ["engine", "workers"]
    assert list(cases[0].arms[1].all_costs()) == ["engine", "workers", "client"]
    ours = cases[0].arms[1]
    assert ours.rounds[0].group is not None
    # A commit for each group at least, and one for each flow and step at most, housekeeping aside.
    assert ours.transactions_per_step is not None
    assert ours.rounds[0].groups_per_step is not None
    assert ours.rounds[0].groups_per_step <= 48 / 36
    assert any("round 1 of 1" in line for line in told)
