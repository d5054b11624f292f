"""Explanations from values (Q2): what is said about each row, with and without facts of replicas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dwarf_nats.rules.explaining import Subject, explain, reason_of
from dwarf_nats.rules.explaining_flow import MAX_NESTED_LEVELS, ended_flow, living_flow, waits_for
from dwarf_nats.rules.explaining_queue import Scene
from dwarf_nats.rules.living import FailedStep, Living, LivingFlow, LivingGroup, LivingStep, Moment
from dwarf_nats.rules.replica_facts import ReplicaFacts, StepFacts, StepPhase, TaskFacts
from dwarf_nats.rules.rows import FlowRow
from dwarf_nats.workflow.explanation import Because, Reason
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.nodes import RetryPolicy
from dwarf_nats.workflow.progress import Progress
from dwarf_nats.workflow.status import Parked, Status

NOW = 1_000_000_000_000
SECOND = 1_000_000
STEP = LivingStep(
    limit_slot=None,
    limit_because=None,
    step_id=43,
    token="t" * 16,
    flow_id=42,
    node="charge",
    url="billing.charge",
    status="pending",
    parked=0,
    attempt=0,
    error=None,
    not_before=NOW - 5 * SECOND,
    created_at=NOW - 60 * SECOND,
    started_at=None,
    updated_at=NOW - 5 * SECOND,
    lease_expires=None,
    payload_size=None,
    slept=0,
    wait_event=None,
    wait_key=None,
    wait_until=None,
    compensates=None,
    priority=100,
    predecessor_id=1,
    replica=None,
    replica_seen_at=None,
    cause=None,
    tripped_at=None,
    bus_away_since=None,
    progress=None,
    progress_at=None,
    ordinal=0,
    branches=None,
    fan_out=None,
)
RUNNING = replace(STEP, status="running", replica="r1", replica_seen_at=NOW - SECOND, lease_expires=NOW + 100 * SECOND)
SCENE = Scene(shard=1, now=NOW, best_priority=100, replica_timeout_us=10 * SECOND, budget_ms=120_000)
IDLE = ReplicaFacts(name="r1", workers=8, in_use=2)
BUSY = ReplicaFacts(name="r2", workers=8, in_use=8)


def scene(*replicas: ReplicaFacts, best: int | None = 100) -> Scene:
    return replace(SCENE, replicas=replicas, best_priority=best)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (replace(STEP, status="created"), Reason.CREATED),
        (replace(STEP, status="interrupted", payload_size=4), Reason.INTERRUPT),
        (replace(STEP, status="interrupted"), Reason.BREAKPOINT),
        (replace(STEP, status="running"), Reason.RUNNING),
        (replace(STEP, status="running", parked=Parked.CHILD), Reason.SUBGRAPH),
        (replace(STEP, status="running", parked=Parked.EVENT), Reason.EVENT),
        (replace(STEP, not_before=NOW + 1), Reason.SCHEDULED),
        (replace(STEP, not_before=NOW + 1, attempt=1), Reason.RETRY),
        (replace(STEP, not_before=NOW + 1, attempt=1, slept=1), Reason.RETRY),
        (replace(STEP, not_before=NOW + 1, attempt=1, slept=1, url="engine:sleep"), Reason.SCHEDULED),
        (replace(STEP, attempt=1), Reason.QUEUED),
        (STEP, Reason.QUEUED),
        (replace(STEP, cause="no_responders"), Reason.NO_RESPONDERS),
        (replace(STEP, cause="overloaded", parked=Parked.BREAKER), Reason.OVERLOADED),
        (replace(STEP, cause="forbidden"), Reason.UNAVAILABLE),
        (replace(STEP, parked=Parked.BREAKER), Reason.UNAVAILABLE),
        (replace(STEP, parked=Parked.BREAKER, not_before=NOW + 1), Reason.SCHEDULED),
    ],
)
def test_the_reason_follows_from_the_row(step: LivingStep, reason: Reason) -> None:
    assert reason_of(step, NOW) is reason
    assert explain(Subject(step=step), SCENE).text


def test_a_message_that_no_stream_takes_says_so() -> None:
    """Nobody serves a subject that a stream should take: what is missing is the stream (N4)."""
    graph = Graph.from_json(
        b'{"name": "w", "entryPoint": "a", "tasks": [{"name": "a", "publish": {"subject": "orders.done", "stream": true}}],'
        b' "transitions": [{"from": "a", "to": "END"}]}'
    )
    step = replace(STEP, node="a", url="orders.done", cause="no_responders")
    wait = explain(Subject(step=step, graph=graph), SCENE)
    assert wait.text.startswith("No stream takes messages on orders.done")
    assert wait.remedy == "nats stream ls"
    assert explain(Subject(step=step), SCENE).text.startswith("Nobody serves orders.done")


@pytest.mark.parametrize(
    ("replicas", "best", "because", "text"),
    [
        ((), 100, Because.WORKERS, "Waits for a worker."),
        ((IDLE,), 100, Because.WORKERS, "Is due, and a worker takes it in a moment."),
        ((BUSY,), 100, Because.WORKERS, "Waits for a worker: all 8 are busy. More of them (--workers), or another"),
        ((BUSY, BUSY), None, Because.WORKERS, "Waits for a worker: all 16 of 2 replicas are busy."),
        ((BUSY,), 99, Because.PRIORITY, "Waits behind steps of priority 99, which comes before its own, 100."),
        ((replace(IDLE, draining=True),), 99, Because.WORKERS, "Waits for a replica: those that run are stopping"),
        ((replace(IDLE, draining=True), BUSY), 100, Because.WORKERS, "Waits for a worker: all 8 are busy."),
        (
            (replace(BUSY, tasks={"billing.charge": TaskFacts(rate=2.5, opens_at=NOW + 7)}), BUSY),
            99,
            Because.RATE,
            "Waits for its turn: the task billing.charge said that it is busy, and is asked 2.5 times a second.",
        ),
        (
            (replace(BUSY, tasks={"billing.charge": TaskFacts(at_share=True)}),),
            100,
            Because.LIMIT,
            "Waits for a worker: its task has three quarters of them",
        ),
    ],
)
def test_why_a_step_that_is_due_has_no_worker(
    replicas: tuple[ReplicaFacts, ...], best: int | None, because: Because, text: str
) -> None:
    wait = explain(Subject(step=STEP), scene(*replicas, best=best))
    assert (wait.reason, wait.because) == (Reason.QUEUED, because)
    assert wait.text.startswith(text)
    assert wait.until == (NOW + 7 if because is Because.RATE else None)


def test_a_bus_that_is_away_holds_what_is_due_only_if_it_is_so_everywhere() -> None:
    away = replace(BUSY, holds_steps=True)
    assert explain(Subject(step=STEP), scene(away, away)).reason is Reason.BUS_AWAY
    assert explain(Subject(step=STEP), scene(away, BUSY)).reason is Reason.QUEUED


def test_a_breaker_that_a_replica_knows_before_the_database_counts() -> None:
    facts = replace(IDLE, tasks={"billing.charge": TaskFacts(probe_at=NOW + 9, cause="overloaded")})
    wait = explain(Subject(step=STEP), scene(facts))
    assert (wait.reason, wait.until, wait.because) == (Reason.OVERLOADED, NOW + 9, None)


@pytest.mark.parametrize(
    ("probes", "until"), [([], None), ([NOW - 5], NOW - 5), ([NOW - 5, NOW + 9, NOW + 7], NOW + 7)]
)
def test_the_next_probe_of_any_replica_is_told(probes: list[int], until: int | None) -> None:
    facts = [replace(IDLE, tasks={"billing.charge": TaskFacts(probe_at=at)}) for at in probes]
    held = replace(STEP, cause="no_responders", tripped_at=NOW - SECOND, created_at=NOW - 9 * SECOND)
    wait = explain(Subject(step=held), scene(*facts))
    assert (wait.until, wait.since) == (until, NOW - SECOND)
    born_later = replace(held, created_at=NOW - 5)
    assert explain(Subject(step=born_later), SCENE).since == NOW - 5


def test_a_step_that_was_given_back_is_queued_since_then() -> None:
    """B2: not since it was due first; one whose time has come and that nobody has promoted yet, since its time."""
    given_back = replace(STEP, not_before=NOW - 50 * SECOND, updated_at=NOW - 3 * SECOND)
    assert explain(Subject(step=given_back), SCENE).since == NOW - 3 * SECOND
    ripe = replace(STEP, not_before=NOW - SECOND, updated_at=NOW - 9 * SECOND)
    assert explain(Subject(step=ripe), SCENE).since == NOW - SECOND


def test_a_step_that_is_tried_again_keeps_its_error_while_it_is_queued() -> None:
    step = replace(STEP, attempt=2, error='{"message":"card declined","code":402}')
    wait = explain(Subject(step=step), scene(BUSY))
    assert wait.text.endswith("Attempt 2 failed: card declined (402).")
    assert wait.error is not None
    assert wait.error.code == 402


def graph() -> Graph:
    made = Graph("order")
    made.add_chain("charge", "ship", "END")
    made.set_timeout("charge", 60)
    made.set_defaults(timeout=30, retry=RetryPolicy(max_attempts=3))
    return made


FLOW = LivingFlow(
    flow_id=42,
    token="f" * 16,
    workflow="order",
    graph_digest="d",
    surgraph_flow_id=None,
    surgraph_step_id=None,
    start_at=None,
    time_budget_ms=5_000,
)


@pytest.mark.parametrize(
    ("subject", "budget"),
    [
        (Subject(step=RUNNING, flow=FLOW, graph=graph()), 60),
        (Subject(step=replace(RUNNING, node="ship"), flow=FLOW, graph=graph()), 30),
        (Subject(step=RUNNING, flow=FLOW), 5),
        (Subject(step=RUNNING), 120),
    ],
    ids=["node", "graph", "flow", "engine"],
)
def test_the_deadline_follows_from_the_claim_and_the_budget(subject: Subject, budget: int) -> None:
    """X3, L1."""
    assert explain(subject, SCENE).deadline == RUNNING.updated_at + budget * SECOND


def test_the_attempts_are_those_of_the_node_or_its_graph() -> None:
    step = replace(STEP, attempt=1, not_before=NOW + 1, error='{"message":"no","code":500}')
    wait = explain(Subject(step=step, flow=FLOW, graph=graph()), SCENE)
    assert (wait.max_attempts, wait.text) == (3, "Attempt 1 of 3 failed: no (500). The next attempt follows.")


@pytest.mark.parametrize(
    "step",
    [
        replace(RUNNING, replica=None, replica_seen_at=None),
        replace(RUNNING, replica_seen_at=NOW - 10 * SECOND),
        replace(RUNNING, lease_expires=NOW - 1),
    ],
    ids=["gone", "silent", "lease over"],
)
def test_a_step_whose_replica_is_lost_is_given_back_soon(step: LivingStep) -> None:
    """B2."""
    wait = explain(Subject(step=step), SCENE)
    assert wait.text == "Its replica has died or lost it: it is given back and runs again in a moment."
    assert wait.deadline is None


@pytest.mark.parametrize(
    ("phase", "worker", "reason", "text"),
    [
        (StepPhase.ASKING, "", Reason.RUNNING, "Runs: its task has been asked and has not answered yet."),
        (StepPhase.ASKING, "w1", Reason.RUNNING, "Runs on the worker w1."),
        (
            StepPhase.WRITING,
            "",
            Reason.RUNNING,
            "Its task has answered, and the result is being written to the database.",
        ),
        (StepPhase.HELD, "", Reason.BUS_AWAY, "The connection of its replica to NATS is away"),
    ],
)
def test_the_replica_that_has_a_step_tells_how_far_it_is(
    phase: StepPhase, worker: str, reason: Reason, text: str
) -> None:
    facts = replace(IDLE, steps={43: StepFacts(phase=phase, worker=worker, deadline=NOW + 5)})
    wait = explain(Subject(step=RUNNING), scene(BUSY, facts))
    assert (wait.reason, wait.worker, wait.replica) == (reason, worker, "r1")
    assert wait.text.startswith(text)
    assert wait.deadline == (None if phase is StepPhase.HELD else NOW + 5)
    without = explain(Subject(step=RUNNING), scene(replace(facts, steps={})))
    assert without.text == "Runs: its replica is about to take it up, or has just finished it."
    other = replace(facts, name="r3")
    assert (
        explain(Subject(step=RUNNING), scene(other)).text == "Runs: its task has been asked and has not answered yet."
    )


def test_the_heartbeat_of_a_replica_that_does_not_answer_tells_that_its_bus_is_away() -> None:
    """Since when both are true; what the replica says itself is newer."""
    step = replace(RUNNING, bus_away_since=NOW - SECOND, updated_at=NOW - 9 * SECOND)
    wait = explain(Subject(step=step), scene(BUSY))
    assert (wait.reason, wait.since, wait.deadline) == (Reason.BUS_AWAY, NOW - SECOND, None)
    back = replace(IDLE, steps={43: StepFacts(phase=StepPhase.ASKING)})
    assert explain(Subject(step=step), scene(back)).reason is Reason.RUNNING
    silent = replace(step, replica_seen_at=NOW - 60 * SECOND)
    assert explain(Subject(step=silent), scene(BUSY)).reason is Reason.RUNNING


def test_the_last_progress_is_told_that_of_the_replica_first() -> None:
    """B7: without its data."""
    step = replace(RUNNING, progress='{"fraction":0.5,"text":"half","data":{"row":7}}', progress_at=NOW - 9)
    assert explain(Subject(step=step), SCENE).progress == Progress(at=NOW - 9, fraction=0.5, text="half")
    newer = Progress(at=NOW - 1, text="more", data_json=b"1")
    facts = replace(IDLE, steps={43: StepFacts(phase=StepPhase.ASKING, progress=newer)})
    assert explain(Subject(step=step), scene(facts)).progress == Progress(at=NOW - 1, text="more")


def test_a_step_in_a_fan_out_names_its_branch() -> None:
    """Q3."""
    wait = explain(Subject(step=replace(RUNNING, ordinal=1, branches=5, fan_out="split")), SCENE)
    assert wait.branch is not None
    assert (wait.branch.label, wait.branch.of) == ("2/5", "split")


def flow_row(**more: Any) -> FlowRow:
    fields: dict[str, Any] = {
        "flow_id": 42,
        "token": "f" * 16,
        "workflow": "order",
        "graph_digest": "d",
        "status": Status.RUNNING,
        "thread_id": 42,
        "thread_token": "f" * 16,
        "surgraph_step_id": None,
        "surgraph_flow_id": None,
        "root_id": 42,
        "breakpoints": None,
        "priority": 100,
        "fairness_key": "",
        "fairness_weight": 1.0,
        "start_at": None,
        "time_budget_ms": None,
        "baggage": "{}",
        "notify": "",
        "request_digest": "",
        "final_state": None,
        "final_borrowed": None,
        "error": None,
        "cancel_reason": None,
        "created_at": 0,
        "started_at": 0,
        "updated_at": 0,
        "trace": "",
    }
    return FlowRow(**{**fields, **more})


def living(*steps: LivingStep, **more: Any) -> Living:
    fields: dict[str, Any] = {
        "moment": Moment(NOW, 100),
        "flows": {42: FLOW},
        "steps": steps,
        "callers": {},
        "payloads": {},
        "replicas": (),
        **more,
    }
    return Living(**fields)


def test_a_flow_in_which_nothing_lives_is_no_riddle() -> None:
    found = living_flow(flow_row(), living(), {}, SCENE)
    assert found.text.startswith("No step of it is under way, which should not be")
    assert found.waits == []


def test_counts_follow_from_groups_if_there_are_more_than_are_listed() -> None:
    groups = [
        LivingGroup("a", "pending", 0, NOW - 1, 0, None, 0, None, 9_000),
        LivingGroup("a", "running", 0, 0, 0, None, 0, None, 7),
        LivingGroup("a", "pending", 2, NOW - 1, 0, None, 0, "no_responders", 3),
    ]
    found = living_flow(flow_row(), living(RUNNING, groups=groups, more=True), {}, SCENE)
    assert found.truncated
    assert found.counts == {Reason.QUEUED: 9_000, Reason.RUNNING: 7, Reason.NO_RESPONDERS: 3}
    assert found.text.startswith(
        "Goes on: 9010 steps (9000 queued, 7 running, 3 no_responders). The oldest is charge: "
    )


def test_a_tower_of_sub_workflows_is_nested_only_so_deep() -> None:
    """P4: the step at its bottom is told all the same."""
    flows, callers = {42: FLOW}, {}
    for number in range(43, 543):
        flows[number] = replace(FLOW, flow_id=number, surgraph_flow_id=number - 1, surgraph_step_id=number)
        callers[number] = replace(
            RUNNING, step_id=number, flow_id=number - 1, parked=int(Parked.CHILD), node=f"n{number}"
        )
    bottom = replace(RUNNING, step_id=9_000, flow_id=542)
    found = living_flow(flow_row(), living(bottom, flows=flows, callers=callers), {}, SCENE)
    levels, at = 0, found.waits[0]
    while at.waits:
        levels, (at,) = levels + 1, at.waits
    assert (levels, at.step_id, at.reason) == (MAX_NESTED_LEVELS, 9_000, Reason.RUNNING)


def test_an_ended_sub_workflow_has_no_remedy_that_is_refused() -> None:
    """O13: only its root can be restarted; a step of it can be run again."""
    cancelled = flow_row(status=Status.CANCELLED, surgraph_flow_id=1, surgraph_step_id=2, cancel_reason="")
    assert (ended_flow(1, cancelled, []).text, ended_flow(1, cancelled, []).remedy) == ("Cancelled.", "")
    failed = replace(cancelled, status=Status.FAILED, error='{"message":"no","code":500}')
    assert (ended_flow(1, failed, []).text, ended_flow(1, failed, []).remedy) == ("Failed: no (500).", "")
    step = FailedStep(43, "t", "charge", '{"message":"no","code":500}', 2)
    found = ended_flow(1, failed, [step])
    assert found.text == "Failed at charge: no (500). 1 other step has failed, too."
    assert found.remedy == "dwarf-nats flow restart-from 1-43-t"


def test_a_list_tells_the_same_as_far_as_it_knows() -> None:
    shown = waits_for(replace(RUNNING, parked=int(Parked.CHILD)), replace(SCENE, complete=False))
    assert (shown.reason, shown.text) == (Reason.SUBGRAPH, "Waits for the end of the workflow that it called.")
    gone = explain(Subject(step=replace(RUNNING, parked=int(Parked.CHILD))), SCENE)
    assert gone.text == "The workflow that it called has ended: it is woken in a moment."
