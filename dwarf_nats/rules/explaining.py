"""The explanation of one living step: what it waits for, and what would help (Q2). Pure.

The database tells what the step waits for. Facts of replicas, as far as there are any, make that more exact.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from dwarf_nats.rules import explaining_queue
from dwarf_nats.rules.explaining_queue import Scene
from dwarf_nats.rules.replica_facts import StepPhase
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.explanation import Reason, Wait
from dwarf_nats.workflow.limits import UNBOUNDED
from dwarf_nats.workflow.nodes import ENGINE_URL, NodeKind
from dwarf_nats.workflow.progress import read_progress
from dwarf_nats.workflow.status import Parked, Status
from dwarf_nats.workflow.step_details import Branch

if TYPE_CHECKING:
    from dwarf_nats.rules.holds import Hold
    from dwarf_nats.rules.living import LivingFlow, LivingStep
    from dwarf_nats.rules.replica_facts import ReplicaFacts, StepFacts
    from dwarf_nats.workflow.graph import Graph, Node

_SLEEP_URL = f"{ENGINE_URL}{NodeKind.SLEEP}"


class Stand(Protocol):
    """The columns of a living step, or of several that wait in the same way, which decide on the reason."""

    @property
    def url(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def parked(self) -> int: ...
    @property
    def not_before(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def payload_size(self) -> int | None: ...
    @property
    def slept(self) -> int: ...
    @property
    def cause(self) -> str | None: ...


def reason_of(step: Stand, now: int) -> Reason:
    """The reason why a living step is where it is, as the database has it."""
    match step.status:
        case Status.CREATED:
            return Reason.CREATED
        case Status.INTERRUPTED:
            return Reason.BREAKPOINT if step.payload_size is None else Reason.INTERRUPT
        case Status.RUNNING:
            return {Parked.CHILD: Reason.SUBGRAPH, Parked.EVENT: Reason.EVENT}.get(Parked(step.parked), Reason.RUNNING)
    if step.parked == Parked.HOLD:
        return Reason.PAUSED
    if step.not_before > now:
        sleeps = step.slept and step.url == _SLEEP_URL
        return Reason.RETRY if step.attempt and not sleeps else Reason.SCHEDULED
    if step.parked == Parked.LIMIT:
        return Reason.QUEUED
    if step.cause is not None or step.parked == Parked.BREAKER:
        return explaining_queue.reason_of_cause(step.cause)
    return Reason.QUEUED


@dataclass(slots=True, frozen=True, kw_only=True)
class Subject:
    """A living step to be explained. `graph`: of its flow, unless it is not at hand. `payload`: of its interrupt."""

    step: LivingStep
    flow: LivingFlow | None = None
    graph: Graph | None = None
    payload: str | None = None

    @property
    def node(self) -> Node | None:
        """Its node; of a compensation, the one that says how it is done (N9)."""
        if self.graph is None:
            return None
        return (self.graph.nodes if self.step.compensates is None else self.graph.compensations).get(self.step.node)

    @property
    def kind(self) -> NodeKind:
        """What its node does."""
        return NodeKind.TASK if (node := self.node) is None else node.kind

    @property
    def max_attempts(self) -> int | None:
        """How often its node is tried at most, by its policy (L1)."""
        if self.graph is None:
            return None
        node = self.node
        policy = node.retry if node is not None and node.retry is not None else self.graph.defaults.retry
        return None if policy is None else policy.max_attempts


@dataclass(slots=True, frozen=True, kw_only=True)
class Callee:
    """The flow that a step waits for, and the waits of its steps."""

    workflow: str
    flow_key: str
    waits: Sequence[Wait]


def explain(subject: Subject, scene: Scene, callee: Callee | None = None) -> Wait:
    """The wait of a living step. `callee`: the flow that it called, if it waits for one that lives."""
    step = subject.step
    reason = reason_of(step, scene.now)
    if reason in _DUE and _hold_of(subject, scene) is not None:
        reason = Reason.PAUSED
    wait = Wait(
        step_key=f"{scene.shard}-{step.step_id}-{step.token}",
        step_id=step.step_id,
        task=step.node,
        url=step.url,
        reason=reason,
        since=step.updated_at,
        text="",
        attempt=step.attempt,
    )
    if step.branches is not None and step.fan_out is not None:
        wait.branch = Branch(index=step.ordinal, count=step.branches, of=step.fan_out)
    if callee is not None:
        _subgraph(wait, callee)
    else:
        _REASONS[reason](wait, subject, scene)
    return wait


# -- pending


def _created(wait: Wait, subject: Subject, scene: Scene) -> None:
    flow = subject.flow
    wait.since = subject.step.created_at
    wait.text = "Its flow is created and not started."
    if flow is not None:
        wait.remedy = f"dwarf-nats flow start {scene.flow_key(flow)}"


def _scheduled(wait: Wait, subject: Subject, _scene: Scene) -> None:
    step, flow = subject.step, subject.flow
    wait.until = step.not_before
    if step.slept and step.url == _SLEEP_URL:
        wait.text = "Sleeps until its time has come."
    elif step.predecessor_id is None and flow is not None and flow.start_at == step.not_before:
        wait.text = "Waits for the start time that its flow was created with."
    elif step.started_at is not None:
        wait.text = "Was given back because its worker, a database or NATS was away; it runs again in a moment."
    else:
        wait.text = "Is not due yet: the step before it asked for a pause."


def _retry(wait: Wait, subject: Subject, _scene: Scene) -> None:
    step = subject.step
    wait.until, wait.max_attempts = step.not_before, subject.max_attempts
    _attempts(wait, subject)
    wait.text += " The next attempt follows."


def _attempts(wait: Wait, subject: Subject) -> None:
    """Tell how the last attempt of a step ended that was tried before."""
    wait.max_attempts, wait.error = subject.max_attempts, ErrorInfo.from_stored(subject.step.error)
    of = "" if wait.max_attempts is None else f" of {wait.max_attempts}"
    if wait.error is None:
        wait.text = f"Attempt {wait.attempt}{of} asked for another one."
    else:
        wait.text = f"Attempt {wait.attempt}{of} failed: {wait.error.message} ({wait.error.code})."


def _queued(wait: Wait, subject: Subject, scene: Scene) -> None:
    step = subject.step
    wait.since = step.updated_at if step.not_before <= step.updated_at else step.not_before
    explaining_queue.queued(wait, step, scene)
    if step.attempt:
        text = wait.text
        _attempts(wait, subject)
        wait.text = f"{text} {wait.text}"


def _breaker(wait: Wait, subject: Subject, scene: Scene) -> None:
    step = subject.step
    wait.since = max(step.created_at, step.tripped_at or 0)
    explaining_queue.held_by_breaker(wait, step, scene, is_message=subject.kind is NodeKind.PUBLISH)


_DUE = frozenset({Reason.QUEUED, Reason.NO_RESPONDERS, Reason.UNAVAILABLE, Reason.OVERLOADED})
"""Reasons of steps that are due, which a hold comes before."""


def _hold_of(subject: Subject, scene: Scene) -> Hold | None:
    workflow = "" if subject.flow is None else subject.flow.workflow
    return scene.holds.find(subject.step.url, workflow, scene.now)


def _paused(wait: Wait, subject: Subject, scene: Scene) -> None:
    """Tell which hold stops a step, who put it and why (K2)."""
    hold = _hold_of(subject, scene)
    if hold is None:
        wait.text = "Its task or its workflow is on hold, or was a moment ago."
        wait.remedy = "dwarf-nats hold list"
        return
    wait.since, wait.until = max(hold.since, subject.step.created_at), hold.until
    what = f"the task {hold.task}" if hold.task else f"the workflow {hold.workflow}"
    by = f" by {hold.actor}" if hold.actor else ""
    wait.text = f"Stopped by hand: {what} was put on hold{by}{f': {hold.reason}' if hold.reason else '.'}"
    wait.remedy = f"dwarf-nats hold delete {f'--task {hold.task}' if hold.task else f'--workflow {hold.workflow}'}"


# -- at work


def _running(wait: Wait, subject: Subject, scene: Scene) -> None:
    step = subject.step
    wait.replica = step.replica or ""
    wait.deadline = _deadline(subject, scene)
    if step.progress is not None:
        progress = read_progress(step.progress.encode(), step.progress_at or step.updated_at, UNBOUNDED)
        wait.progress = replace(progress, data_json=None)
    facts = next((one for one in scene.replicas if one.name == step.replica), None)
    if _is_lost(step, scene):
        wait.deadline = None
        wait.text = "Its replica has died or lost it: it is given back and runs again in a moment."
    elif facts is None and step.bus_away_since is not None:
        _held(wait, step)
    elif facts is not None and step.step_id in facts.steps:
        _at_replica(wait, subject, facts, facts.steps[step.step_id])
    elif facts is not None:
        wait.text = "Runs: its replica is about to take it up, or has just finished it."
    else:
        wait.text = _AT_WORK.get(subject.kind, "Runs: its task has been asked and has not answered yet.")


def _deadline(subject: Subject, scene: Scene) -> int | None:
    """When the task of a step that runs must have answered, by its claim and its budget (X3, L1)."""
    node, graph, flow = subject.node, subject.graph, subject.flow
    if subject.step.url.startswith(ENGINE_URL):
        return None
    own = None if node is None else node.timeout_ms
    if own is None and graph is not None:
        own = graph.defaults.timeout_ms
    if own is None and flow is not None:
        own = flow.time_budget_ms
    return subject.step.updated_at + (own if own is not None else scene.budget_ms) * 1000


def _is_lost(step: LivingStep, scene: Scene) -> bool:
    """True if the step will be taken from the replica that has claimed it (B2)."""
    silent = step.replica_seen_at is None or step.replica_seen_at <= scene.now - scene.replica_timeout_us
    return silent or (step.lease_expires is not None and step.lease_expires < scene.now)


def _held(wait: Wait, step: LivingStep) -> None:
    wait.reason, wait.deadline, wait.remedy = Reason.BUS_AWAY, None, "dwarf-nats health"
    wait.since = max(step.updated_at, step.bus_away_since or 0)
    wait.text = "The connection of its replica to NATS is away: the step is held and goes on when it is back."


def _at_replica(wait: Wait, subject: Subject, replica: ReplicaFacts, step: StepFacts) -> None:
    if step.deadline is not None and wait.deadline is not None:
        wait.deadline = step.deadline
    wait.worker = step.worker
    if step.progress is not None:
        wait.progress = replace(step.progress, data_json=None)
    match step.phase:
        case StepPhase.HELD:
            _held(wait, subject.step)
            return
        case StepPhase.QUEUED:
            wait.deadline, wait.until = None, step.deadline
            at = f" {step.worker}" if step.worker else ""
            wait.text = f"Queued at worker{at}, which runs as many steps as it may. Its time budget does not count yet."
        case StepPhase.WRITING:
            wait.text = "Its task has answered, and the result is being written to the database."
        case _ if step.worker:
            wait.text = f"Runs on the worker {step.worker}."
        case _:
            wait.text = _AT_WORK.get(subject.kind, "Runs: its task has been asked and has not answered yet.")
    if replica.draining:
        wait.text += " Its replica stops, and gives it back if it is not done in time."


_AT_WORK = {
    NodeKind.REQUEST: "Runs: the service has been asked and has not answered yet.",
    NodeKind.PUBLISH: "Runs: its message is being published.",
    **dict.fromkeys(
        (NodeKind.SET, NodeKind.WORKFLOW, NodeKind.WAIT, NodeKind.ASK, NodeKind.SLEEP),
        "Runs: the engine carries it out.",
    ),
}


# -- waiting


def _interrupt(wait: Wait, subject: Subject, _scene: Scene) -> None:
    wait.until = subject.step.wait_until
    wait.payload_json = None if subject.payload is None else subject.payload.encode()
    wait.text = "Waits until somebody answers."
    wait.remedy = f"dwarf-nats flow resume {wait.step_key} --data '…'"


def _breakpoint(wait: Wait, _subject: Subject, _scene: Scene) -> None:
    wait.text = f"Stopped at a breakpoint before {wait.task}."
    wait.remedy = f"dwarf-nats flow resume-break {wait.step_key}"


def _event(wait: Wait, subject: Subject, _scene: Scene) -> None:
    step = subject.step
    wait.event, wait.key, wait.until = step.wait_event or "", step.wait_key or "", step.wait_until
    named = f" with the key {wait.key}" if wait.key else ""
    wait.text = f"Waits for the event {wait.event}{named}."
    wait.remedy = f"dwarf-nats flow signal {wait.event} {shlex.quote(wait.key)}"


def _subgraph(wait: Wait, callee: Callee) -> None:
    wait.workflow, wait.flow_key, wait.waits = callee.workflow, callee.flow_key, list(callee.waits)
    wait.text = f"Waits for the end of the workflow {callee.workflow}."


def _ended_subgraph(wait: Wait, _subject: Subject, scene: Scene) -> None:
    if scene.complete:
        wait.text = "The workflow that it called has ended: it is woken in a moment."
    else:
        wait.text = "Waits for the end of the workflow that it called."


_REASONS: Mapping[Reason, Callable[[Wait, Subject, Scene], None]] = {
    Reason.CREATED: _created,
    Reason.SCHEDULED: _scheduled,
    Reason.RETRY: _retry,
    Reason.QUEUED: _queued,
    Reason.NO_RESPONDERS: _breaker,
    Reason.UNAVAILABLE: _breaker,
    Reason.OVERLOADED: _breaker,
    Reason.PAUSED: _paused,
    Reason.RUNNING: _running,
    Reason.INTERRUPT: _interrupt,
    Reason.BREAKPOINT: _breakpoint,
    Reason.EVENT: _event,
    Reason.SUBGRAPH: _ended_subgraph,
}
