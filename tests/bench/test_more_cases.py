"""The further cases run, at tiny sizes: every flow ends as it must, and each says what it is there to say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.arms import Runner, Servers, Sides
from bench.capacity import CapacityArm, CoresArm, OfferedArm, capacities, shared_load, two_cores
from bench.cases import Plan, run_cases
from bench.children import Failed
from bench.compare import compare
from bench.database import committers, sharded
from bench.result import Case, Figures, Run
from bench.sizing import points_of
from bench.targets import targets
from dwarf_nats.dev_servers import NatsServer, PostgresServer

pytestmark = pytest.mark.slow


@pytest.fixture
def servers(nats_server: NatsServer, postgres: PostgresServer, tmp_path: Path) -> Servers:
    return Servers(postgres.dsn(), nats_server.url, tmp_path)


async def run(plan: Plan, servers: Servers, steps: int = 3) -> Case:
    (case,) = await run_cases([plan], ["postgresql", "sqlite"], servers, Sides(steps=steps), 1, lambda _said: None)
    assert all(len(arm.rounds) == 1 for arm in case.arms)
    return case


def run_with(case: Case) -> Run:
    return Run("2026-01-01T00:00:00+00:00", "bench", {"cpu": "one", "cores": "2"}, {}, {}, [case])


def names(case: Case) -> list[str]:
    return [arm.name for arm in case.arms]


def ran(case: Case) -> list[tuple[int, int]]:
    return [(one.flows, one.steps) for arm in case.arms for one in arm.rounds]


async def test_fan_out(servers: Servers) -> None:
    case = await run(Plan("fan-out", 16, 32, sizes=(2, 16)), servers)
    assert names(case) == ["2 branches", "16 branches"]
    assert ran(case) == [(16, 64), (2, 36)]
    assert [len(arm.measured("us_per_branch")) for arm in case.arms] == [1, 1]
    assert [one.bound for one in targets([case])] == [1.5]


async def test_history(servers: Servers) -> None:
    case = await run(Plan("history", 4, 8, sizes=(50,)), servers)
    assert names(case) == ["no history", "50 finished"]
    assert ran(case) == [(8, 24), (8, 24)]
    assert case.base == "no history"
    assert [one.bound for one in targets([case])] == [0.9]


async def test_payload(servers: Servers) -> None:
    case = await run(Plan("payload", 2, 4, sizes=(300,), label="300B"), servers)
    assert case.key == "payload/300B"
    assert names(case) == ["no text", "unchanged", "changed"]
    assert ran(case) == [(4, 12)] * 3
    assert [len(arm.measured("mb_per_s")) for arm in case.arms] == [0, 1, 1]


async def test_replicas(servers: Servers) -> None:
    case = await run(Plan("replicas", 4, 12, sizes=(1, 2)), servers)
    assert names(case) == ["1 replica", "2 replicas", "1 replica, 2 shards"]
    assert ran(case) == [(12, 36)] * 3


async def test_idle(servers: Servers) -> None:
    """It is compared with itself, too: nothing has moved."""
    case = await run(Plan("idle", 1, 1, label="watch"), servers)
    assert names(case) == ["postgresql", "sqlite"]
    assert ran(case) == [(0, 0)] * 2
    postgres, sqlite = case.arms
    assert len(postgres.measured("statements_per_minute")) == 1
    assert sqlite.measured("statements_per_minute") == []
    assert all(len(arm.measured("engine_cpu_percent")) == 1 for arm in case.arms)
    run_of = run_with(case)
    assert {move.moved for move in compare(run_of, run_of)} == {False}


async def test_start(servers: Servers) -> None:
    case = await run(Plan("start", 1, 1, label="empty"), servers)
    assert names(case) == ["postgresql", "sqlite"]
    measured = {"serve_ready_ms", "idle_rss_mib", "help_cpu_ms", "flow_list_cpu_ms"}
    assert [set(arm.rounds[0].measures) for arm in case.arms] == [measured, measured | {"dev_ready_ms"}]
    assert {"start"} == {target.case.split("/")[0] for target in targets([case])}


async def test_memory(servers: Servers) -> None:
    case = await run(Plan("memory", 4, 8, sizes=(20, 30, 10), label="resident"), servers)
    assert names(case) == ["empty", "20 asleep, 30 pending", "10 in flight"]
    assert all(arm.measured("rss_mib")[0] > 10 for arm in case.arms)
    assert case.arms[2].measured("kib_per_task") != []


async def measured(arm: Runner, concurrency: int, flows: int) -> Figures:
    """One round of an arm."""
    async with arm:
        await arm.warm_up(concurrency)
        arm.figures.rounds.append(await arm.measure(concurrency, flows))
    return arm.figures.rounds[0]


async def test_a_part_on_a_core_of_its_own(servers: Servers, postgres: PostgresServer) -> None:
    """Afterwards, the servers may use every core again."""
    servers.pids["database"] = postgres.pid
    sides = Sides(steps=3)
    assert [arm.figures.name for arm in capacities(servers, sides)] == [
        "shared cores, plain worker",
        "engine alone, plain worker",
        "database alone, plain worker",
        "nats alone, plain worker",
        "workers alone, SDK worker",
        "engine alone, SDK worker",
    ]
    arm = CapacityArm("database", servers, sides, sdk_worker=True)
    one = await measured(arm, 4, 8)
    own, others = two_cores()
    assert os.sched_getaffinity(postgres.pid) == own != others
    assert one.steps == 24
    assert "core_percent" in one.measures
    assert one.measures["wal_bytes_per_step"] > 100
    (point,) = points_of([run_with(Case("capacity", 4, 3, [arm.figures]))])
    assert point.cpu_us.keys() == {"engine", "database", "SDK worker"}
    two = await measured(CoresArm(2, servers, sides), 4, 8)
    assert two.steps == 2 * 24
    servers.pin({}, {})
    assert os.sched_getaffinity(postgres.pid) == os.sched_getaffinity(0)


async def test_replicas_share_an_offered_load(servers: Servers) -> None:
    """A replica with a part of the load gets as many steps a second as one of so many."""
    sides = Sides(steps=3)
    arms = shared_load(servers, sides, (1, 2), 300)
    assert [arm.figures.name for arm in arms] == [
        "1 replica", "2 replicas", "1 replica, 2 shards", "1 replica, 1/2 of the load"
    ]  # fmt: skip
    assert [(arm.figures.replicas, arm.figures.shards) for arm in arms] == [(1, 1), (2, 1), (1, 2), (1, 1)]
    assert len(shared_load(servers, sides, (1, 2), 0)) == 3
    one = await measured(arms[-1], 4, 12)
    assert one.steps == 18
    assert one.seconds > 0.1  # six flows at 50 a second: the last begins after 100 ms, however fast the machine is
    offered = await measured(OfferedArm(servers, sides, 60), 4, 1)
    assert offered.steps == 60


async def test_postgres_alone(servers: Servers, postgres: PostgresServer) -> None:
    """Writers settle whole flows, on one server or on two."""
    sides = Sides(steps=3)
    with pytest.raises(Failed, match="needs a server on this machine"):
        await measured(committers(servers, sides, (2,))[0], 2, 1)
    servers.pids["database"] = postgres.pid
    assert [arm.figures.committers for arm in committers(servers, sides, (1, 2))] == [1, 2]
    one = await measured(sharded(servers, sides)[-1], 2, 1)
    assert one.steps == one.flows * 3 > 0
    assert one.transactions_per_step == pytest.approx(4 / 3 / 2)  # a creation and three steps for each group of two
    assert "database" in one.cpu_us
