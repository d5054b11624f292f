"""The checker finds what it is there to find: a calm round is clean, and what must not be shows once it is put in."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from dwarf_nats.dev_servers import NatsServer
from tests.chaos.account import Execution
from tests.chaos.checker import Checker, Evidence
from tests.chaos.driver import Ticket
from tests.chaos.processes import Arrangement, Installation, Member
from tests.chaos.round import Result, perform
from tests.chaos.rows import Row, Shard

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calm() -> Result:
    """A round in which nothing breaks, and nobody is taken for dead because the machine is slow."""
    patient = ("--replica-timeout-ms", "60000", "--time-budget-ms", "120000")
    return asyncio.run(perform(Arrangement("calm", 0, 1, 2, flags=patient), seed=3, seconds=5, calm=True))


def test_nothing_is_found_where_nothing_breaks(calm: Result) -> None:
    assert not calm.findings, calm.report()
    assert calm.counts["disturbed"] == calm.counts["executed again"] == 0
    assert {ticket.shape.name for ticket in calm.evidence.tickets} >= {shape for shape, _, _ in TAMPERED} - {
        "random_flows"
    }
    assert all(calm.counts[name] for name in ("undone", "events", "timeouts of events"))


@dataclass
class Scene:
    """A flow that was run once and completed, with what there is of it."""

    evidence: Evidence
    ticket: Ticket

    @property
    def shard(self) -> Shard:
        return self.evidence.shards[0]

    @property
    def flow(self) -> Row:
        return self.shard.flows[int(self.ticket.key.split("-")[1])]

    def steps(self, node: str) -> list[Row]:
        return [step for step in self.shard.of_flow[self.flow.flow_id] if step.node == node]

    def step(self, node: str) -> Row:
        return self.steps(node)[0]

    def child(self) -> Row:
        return next(one for one in self.shard.flows.values() if one.surgraph_flow_id == self.flow.flow_id)

    def runs(self, step: Row) -> list[Execution]:
        return [one for one in self.evidence.account.executions if one.step_id == step.step_id]


def changed(step: Row, column: str, **fields: object) -> None:
    """Change fields of a column that holds JSON."""
    setattr(step, column, json.dumps({**json.loads(getattr(step, column)), **fields}))


def lost_flow(scene: Scene) -> None:
    del scene.shard.flows[scene.flow.flow_id]


def another_flow(scene: Scene) -> None:
    other = copy.copy(scene.flow)
    other.flow_id = other.root_id = 10**9
    scene.shard.flows[other.flow_id] = other


def running(scene: Scene) -> None:
    scene.flow.status = "running"


def failed(scene: Scene) -> None:
    scene.flow.status, scene.flow.error = "failed", '{"message":"no","code":500}'


def cancelled(scene: Scene) -> None:
    scene.flow.status = "cancelled"


def cancel_forgotten(scene: Scene) -> None:
    scene.ticket.cancelled = "yes"


def delete_forgotten(scene: Scene) -> None:
    scene.ticket.deleted = "yes"


def other_end(scene: Scene) -> None:
    changed(scene.flow, "final_state", sum=-1)


def told_otherwise(scene: Scene) -> None:
    assert scene.ticket.outcome is not None
    scene.ticket.outcome = copy.copy(scene.ticket.outcome)
    scene.ticket.outcome.state_json = b"{}"


def pending(scene: Scene) -> None:
    scene.step("split").status = "pending"


def parked(scene: Scene) -> None:
    scene.step("split").parked = 1


def leased(scene: Scene) -> None:
    scene.step("split").claimed_by = 1


def merged_twice(scene: Scene) -> None:
    meet = scene.step("meet")
    state = json.loads(meet.state)
    changed(meet, "state", trace=[*state["trace"], state["trace"][-1]])


def branch_missed(scene: Scene) -> None:
    meet = scene.step("meet")
    changed(meet, "state", trace=json.loads(meet.state)["trace"][:-1])


def branch_lost(scene: Scene) -> None:
    first = scene.step("first")
    scene.shard.of_flow[scene.flow.flow_id].remove(first)


def branch_twice(scene: Scene) -> None:
    other = copy.copy(scene.step("first"))
    other.step_id = 10**9
    scene.shard.of_flow[scene.flow.flow_id].append(other)


def arrival_missing(scene: Scene) -> None:
    scene.step("split").arrivals -= 1


def arrival_too_many(scene: Scene) -> None:
    scene.step("split").arrivals += 1


def failure_miscounted(scene: Scene) -> None:
    scene.step("split").failures = 1


def member_led_nowhere(scene: Scene) -> None:
    scene.step("second").successor_id = None


def edge_missing(scene: Scene) -> None:
    scene.step("first").successor_id = None


def edge_to_nothing(scene: Scene) -> None:
    scene.step("after").predecessor_id = 10**9


def second_fan_in(scene: Scene) -> None:
    other = copy.copy(scene.step("meet"))
    other.step_id = 10**9
    scene.shard.of_flow[scene.flow.flow_id].append(other)


def effect_twice(scene: Scene) -> None:
    state = json.loads(scene.flow.final_state)
    changed(scene.flow, "final_state", trace=[*state["trace"], state["trace"][-1]])


def foreign_mark(scene: Scene) -> None:
    state = json.loads(scene.flow.final_state)
    node, step, _ = state["trace"][-1].split("/")
    changed(scene.flow, "final_state", trace=[*state["trace"][:-1], f"{node}/{step}/000000000000"])


def never_executed(scene: Scene) -> None:
    for one in scene.runs(scene.step("after")):
        scene.evidence.account.executions.remove(one)


def never_ended(scene: Scene) -> None:
    for one in scene.runs(scene.step("after")):
        one.ended = None


def phantom(scene: Scene) -> None:
    one = copy.copy(scene.runs(scene.step("after"))[0])
    one.step_key = f"1-{10**9}-{'x' * 16}"
    scene.evidence.account.executions.append(one)


def torn_line(scene: Scene) -> None:
    scene.evidence.account.torn.append("half a li")


def attempt_miscounted(scene: Scene) -> None:
    scene.step("shaky").attempt += 1


def caller_gone(scene: Scene) -> None:
    del scene.shard.steps[scene.child().surgraph_step_id]


def child_twice(scene: Scene) -> None:
    other = copy.copy(scene.child())
    other.flow_id = 10**9
    scene.shard.flows[other.flow_id] = other


def child_runs_on(scene: Scene) -> None:
    scene.child().status = "running"


def result_of_another_child(scene: Scene) -> None:
    scene.step("ask").subgraph_result = "{}"


# -- what was undone


def undoing(scene: Scene) -> list[Row]:
    """The compensations of the flow, in their order."""
    steps = [step for step in scene.shard.of_flow[scene.flow.flow_id] if step.compensates is not None]
    return sorted(steps, key=lambda step: int(step.step_id))


def undone_one_less(scene: Scene) -> None:
    last = undoing(scene)[-1]
    scene.shard.of_flow[scene.flow.flow_id].remove(last)


def undone_twice(scene: Scene) -> None:
    other = copy.copy(undoing(scene)[0])
    other.step_id = 10**9
    scene.shard.of_flow[scene.flow.flow_id].append(other)


def undone_what_failed(scene: Scene) -> None:
    undoing(scene)[0].compensates = scene.step("ship").step_id


def undone_first_first(scene: Scene) -> None:
    first, *_, last = undoing(scene)
    for name in ("step_id", "started_at", "updated_at", "token"):
        mine, its = getattr(first, name), getattr(last, name)
        setattr(first, name, its)
        setattr(last, name, mine)


def undone_at_once(scene: Scene) -> None:
    first, second, *_ = undoing(scene)
    second.started_at = first.updated_at - 1


def undone_by_nobody(scene: Scene) -> None:
    for one in scene.runs(next(one for one in undoing(scene) if one.node == "reserve:compensate")):
        scene.evidence.account.executions.remove(one)


def undone_something_else(scene: Scene) -> None:
    scene.runs(next(one for one in undoing(scene) if one.node == "reserve:compensate"))[0].undoes = "1-1-x"


def undoing_still(scene: Scene) -> None:
    scene.flow.compensating = "failed"


def undone_without_a_trace(scene: Scene) -> None:
    changed(scene.flow, "final_state", undone_reserve=None)


def undone_though_completed(scene: Scene) -> None:
    scene.flow.status, scene.flow.error = "completed", None


def child_left_as_it_was(scene: Scene) -> None:
    steps = scene.shard.of_flow[scene.child().flow_id]
    steps[:] = [step for step in steps if step.node != "enter:compensate"]


def refund_of_another(scene: Scene) -> None:
    changed(scene.step("charge"), "changes", paid={"receipt": "receipt-0"})


# -- events


def event_and_timeout(scene: Scene) -> None:
    changed(scene.step("race"), "event", timedOut=True)


def event_and_error_edge(scene: Scene) -> None:
    changed(scene.step("race"), "changes", onErr={"task": "race", "code": 408, "message": "late"})


def event_gone(scene: Scene) -> None:
    for shard in scene.evidence.shards:
        shard.events[:] = [row for row in shard.events if row.key != scene.ticket.state["key"]]


def event_kept_after_all(scene: Scene) -> None:
    for row in scene.shard.events:
        if row.key == scene.ticket.state["key"]:
            row.state = "kept"


def event_received_twice(scene: Scene) -> None:
    scene.step("second").event = scene.step("first").event


def event_of_nobody(scene: Scene) -> None:
    changed(scene.step("first"), "event", id="nobody")


def event_received_by_nobody(scene: Scene) -> None:
    scene.step("first").event = None


def event_heard_by_two(scene: Scene) -> None:
    one = copy.copy(next(run for run in scene.runs(scene.step("second")) if run.heard))
    first = scene.step("begin")
    one.step_key = f"1-{first.step_id}-{first.token}"
    scene.evidence.account.executions.append(one)


def other_reply(scene: Scene) -> None:
    changed(scene.step("quote"), "changes", quote={"receipt": "receipt-0"})


TAMPERED: list[tuple[str, Callable[[Scene], None], str]] = [
    ("each", lost_flow, "it is not there"),
    ("each", another_flow, "made 1-"),
    ("each", running, "the flow is running"),
    ("each", failed, "should be completed"),
    ("each", cancelled, "nobody cancelled it"),
    ("each", cancel_forgotten, "a cancel was acknowledged"),
    ("each", delete_forgotten, "it was deleted"),
    ("each", other_end, "its final state is"),
    ("random_flows", other_end, "its final state is"),
    ("each", told_otherwise, "its caller was told"),
    ("each", pending, "split is pending"),
    ("each", parked, "parked 1"),
    ("each", leased, "held by 1"),
    ("each", merged_twice, "meet: its input is"),
    ("each", branch_missed, "meet: its input is"),
    ("each", branch_lost, "its branches are"),
    ("each", branch_twice, "its branches are"),
    ("each", arrival_missing, "arrivals are counted"),
    ("each", arrival_too_many, "arrivals are counted"),
    ("each", failure_miscounted, "failures are counted"),
    ("each", member_led_nowhere, "its branches lead to"),
    ("each", edge_missing, "its predecessor"),
    ("each", edge_to_nothing, "its predecessor 1000000000 is not there"),
    ("each", second_fan_in, "it has 2 fan-ins"),
    ("each", effect_twice, "took effect twice"),
    ("each", foreign_mark, "of no execution"),
    ("each", never_executed, "no worker executed it"),
    ("each", never_ended, "no worker executed it"),
    ("each", phantom, "was executed, and is not there"),
    ("each", torn_line, "a torn line"),
    ("shaky", attempt_miscounted, "is at attempt"),
    ("calls", caller_gone, "an orphan"),
    ("calls", child_twice, "has several children"),
    ("calls", child_runs_on, "the flow is running"),
    ("calls", result_of_another_child, "its caller was given"),
    ("saga", undone_one_less, "was not compensated"),
    ("saga", undone_twice, "compensated 2 times"),
    ("saga", undone_what_failed, "it was compensated, and it is failed"),
    ("saga", undone_first_first, "which completed later"),
    ("saga", undone_at_once, "began at"),
    ("saga", undone_by_nobody, "no worker executed it"),
    ("saga", undone_something_else, "it was told to undo"),
    ("saga", undoing_still, "is still to be failed"),
    ("saga", undone_without_a_trace, "its final state is"),
    ("saga", undone_though_completed, "did not fail and was not cancelled"),
    ("saga", child_left_as_it_was, "enter: it was not compensated"),
    ("saga", refund_of_another, "and the service was asked"),
    ("waits", event_and_timeout, "its wait ended with"),
    ("waits", event_and_error_edge, "its wait ended with"),
    ("waits", event_gone, "and is gone"),
    ("waits", event_kept_after_all, "is kept, and 1 steps received it"),
    ("waits", event_received_twice, "2 steps received it"),
    ("waits", event_of_nobody, "which nobody signalled"),
    ("waits", event_received_by_nobody, "neither event nor timeout came"),
    ("waits", event_heard_by_two, "was received by"),
    ("kinds", other_reply, "and sent"),
]


def well(ticket: Ticket) -> bool:
    """Whether there is everything in it that is tampered with: mostly, that nothing fails."""
    state = ticket.state
    if ticket.shape.name == "saga":  # undone as a whole, with its child
        return bool(state["fail"] and state["child"] == "well" and max([0, *state["items"]]) < 11)
    if ticket.shape.name == "waits":
        return state["way"] in ("soon", "before")
    several = len(state.get("items", [1, 2])) > 1
    return several and ticket.expected.status == "completed" and not state.get("fail") and state.get("shy", 0) < 4


@pytest.fixture
def scenes(calm: Result) -> Callable[[str], Scene]:
    """Scenes on a copy of the evidence."""
    evidence = copy.deepcopy(calm.evidence)

    def scene(shape: str) -> Scene:
        for ticket in evidence.tickets:
            if ticket.again or ticket.cancelled or ticket.deleted or ticket.made_from or ticket.shape.name != shape:
                continue
            if shape == "random_flows" or (
                well(ticket) and len(ticket.state.get("items", [1, 2])) > (1 if shape != "saga" else -1)
            ):
                return Scene(evidence, ticket)
        raise AssertionError(f"no {shape} was run")

    return scene


@pytest.mark.parametrize(
    ("shape", "tamper", "found"), TAMPERED, ids=[f"{shape}-{tamper.__name__}" for shape, tamper, _ in TAMPERED]
)
def test_what_must_not_be_is_found(
    scenes: Callable[[str], Scene], shape: str, tamper: Callable[[Scene], None], found: str
) -> None:
    scene = scenes(shape)
    assert not Checker(scene.evidence).findings()
    tamper(scene)
    texts = [finding.text for finding in Checker(scene.evidence).findings()]
    assert any(found in text for text in texts), texts


def test_what_members_said_around_a_finding_is_shown(tmp_path: Path) -> None:
    """Of every start of each, in the order of time; lines without a time belong to the line before, and are left out."""
    members = [Member(name, [], tmp_path) for name in ("replica-1", "worker-1")]
    texts = {
        "replica-1": ["2026-11-30 09:00:01,000 INFO early", "2026-11-30 09:00:03,500 WARNING late"],
        "worker-1": [
            "2026-11-30 09:00:03,000 WARNING lost, reconnecting\nTraceback",
            "2026-11-30 09:00:09,000 INFO after",
        ],
    }
    for one in members:
        for number, text in enumerate(texts[one.name]):
            path = tmp_path / f"{one.name}.{number}.log"
            path.write_text(text)
            one.said.append(path)
    installation = Installation(tmp_path, NatsServer(), [], [], members[:1], members[1:])
    since = datetime(2026, 11, 30, 9, 0, 2).astimezone().timestamp()
    assert installation.said(since, since + 5) == [
        "worker-1 said: 2026-11-30 09:00:03,000 WARNING lost, reconnecting",
        "replica-1 said: 2026-11-30 09:00:03,500 WARNING late",
    ]
