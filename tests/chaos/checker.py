"""The independent checker: the databases, read past the engine, against what callers and task services say themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dwarf_nats.workflow.nodes import PublishMessage, SendRequest
from tests.chaos import structure
from tests.chaos.account import Account, Execution
from tests.chaos.driver import Ticket
from tests.chaos.faults import Timeline
from tests.chaos.heard import Heard, woken_late
from tests.chaos.plain_services import Call
from tests.chaos.processes import TIME_BUDGET_MS, Member
from tests.chaos.rows import Row, Shard
from tests.chaos.undone import Undone

UNANSWERED = "did not answer within its time budget"
"""The error of a step whose worker was killed or stood still."""
WAITING = ("interrupt", "subgraph", "wait")
"""What an execution says that ends because its step waits."""
_AWAY = "cannot be started"
"""The error of a step whose child's graph could not be had for as long as its time budget."""
_DEFECTS = re.compile(
    r"a defect|Traceback|refused the result|refused flow|cannot be failed either|waited for sub-workflows that had ended"
    r"|had no caller any more|have no live step"
)


@dataclass
class Finding:
    """Something that must not be. `where`: the rows concerned, a line each."""

    text: str
    ticket: Ticket | None = None
    where: list[str] = field(default_factory=list)


@dataclass
class Evidence:
    """What the checker goes by."""

    tickets: list[Ticket] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    timeline: Timeline = field(default_factory=Timeline)
    calls: list[Call] = field(default_factory=list)
    """What plain services were asked."""


class Checker:
    """One check of an installation at rest."""

    def __init__(self, evidence: Evidence) -> None:
        self._tickets = evidence.tickets
        self._timeline = evidence.timeline
        self._shards = {shard.number: shard for shard in evidence.shards}
        self._account = evidence.account
        self._calls: dict[str, list[Call]] = {}
        for call in evidence.calls:
            self._calls.setdefault(call.step, []).append(call)
        self._executions: dict[str, list[Execution]] = {}
        self._of_ticket: dict[int, list[Execution]] = {}
        by_root = {ticket.key.rpartition("-")[0]: ticket.number for ticket in self._tickets}
        for one in self._account.executions:
            self._executions.setdefault(one.step_key, []).append(one)
            shard_number, flow_id = map(int, one.flow_key.split("-")[:2])
            flow = self._shards[shard_number].flows.get(flow_id)
            # A copy has the baggage of the original, so the ticket named there will do only if the flow is gone.
            root = f"{shard_number}-{flow.root_id}" if flow is not None else ""
            self._of_ticket.setdefault(by_root.get(root, one.ticket), []).append(one)

    def findings(self) -> list[Finding]:
        """Everything that is wrong."""
        found = [*self._unknown(), *(Finding(f"a torn line: {text}") for text in self._account.torn)]
        for ticket in self._tickets:
            rows: list[str] = []
            for text in [*ticket.findings, *self._flow(ticket)]:
                rows = rows or self.rows(ticket)
                found.append(Finding(text, ticket, rows))
        return found

    def disturbed(self, ticket: Ticket) -> str:
        """Why this flow may have come to another end than it should: a worker that was killed in the middle of a task, or
        was frozen, left a step without an answer, and an unanswered step is an error like any other (X4). Else nothing."""
        if self._root(ticket) is None:
            return ""
        if ticket.unclear and not ticket.shape.marked:
            return "a resume may have gone to another pause"
        for flow in self._tree(ticket):
            for step in self._shards[self._shard_of(ticket)].of_flow.get(flow.flow_id, []):
                if _unanswered(error := _error_of(step)):
                    return f"step {step.step_id} {step.node}: {error}"
        for one in self._of_ticket.get(ticket.number, []):
            if _unanswered(one.child_error or ""):
                return f"a child of {one.node} failed: {one.child_error}"
        return ""

    def unexplained(self, ticket: Ticket) -> Iterator[tuple[str, float, float]]:
        """Steps that are said to be unanswered though a worker answered in time, and said so; when they began, and failed."""
        shard = self._shards[self._shard_of(ticket)]
        for flow in self._tree(ticket):
            for step in shard.of_flow.get(flow.flow_id, []):
                error = _error_of(step)
                if UNANSWERED not in error or json.loads(step.error or "{}").get("code") != 408:
                    continue
                failed, began = step.updated_at / 1e6, (step.started_at or 0) / 1e6
                if self._timeline.workers_hurt(failed - TIME_BUDGET_MS / 1000 - 1, failed):
                    continue
                for one in self._executions.get(self._step_key(shard, step), [])[-1:]:
                    # Not of an earlier attempt, or from before a wait or a restart: it was asked for again since.
                    if one.attempt != step.attempt or one.said in WAITING or one.began < began - 0.1:
                        continue
                    if one.ended is not None and one.ended < failed - TIME_BUDGET_MS / 1500:
                        yield (
                            f"step {step.step_id} {step.node} failed with {error!r} at {self._when(failed)}, and"
                            f" {one.worker} executed it from {self._when(one.began)} to {self._when(one.ended)}",
                            one.began,
                            failed,
                        )

    def rows(self, ticket: Ticket) -> list[str]:
        """All there is of a ticket: what the caller went through, the rows, the executions."""
        shard = self._shards.get(self._shard_of(ticket))
        lines = [f"caller: {text}" for text in ticket.story]
        for flow in self._tree(ticket):
            assert shard is not None
            lines += shard.shown(flow.flow_id, self._timeline.began)
        for one in self._of_ticket.get(ticket.number, []):
            ended = f"{self._when(one.ended)} {one.said}" if one.ended is not None else "never ended"
            lines.append(
                f"executed {one.step_key.rpartition('-')[0]} {one.node} attempt {one.attempt} by {one.worker}"
                f" from {self._when(one.began)} to {ended}, as {one.number}"
            )
        return lines

    def _when(self, at: float) -> str:
        """As in the timeline of the faults."""
        return f"{at - self._timeline.began:.3f}"

    # -- flows and tickets

    def _shard_of(self, ticket: Ticket) -> int:
        return int(ticket.key.split("-")[0]) if ticket.key else 0

    def _root(self, ticket: Ticket) -> Row | None:
        shard = self._shards.get(self._shard_of(ticket))
        return shard.flows.get(int(ticket.key.split("-")[1])) if shard is not None else None

    def _tree(self, ticket: Ticket) -> list[Row]:
        root = self._root(ticket)
        return [] if root is None else self._shards[self._shard_of(ticket)].tree(root.flow_id)

    def _step_key(self, shard: Shard, step: Row) -> str:
        return f"{shard.number}-{step.step_id}-{step.token}"

    def _unknown(self) -> Iterator[Finding]:
        """Flows nobody asked for, keys that made two (O1), and what belongs to nothing."""
        known = {ticket.key.rpartition("-")[0] for ticket in self._tickets}
        # A request that was sent twice may be carried out once more after the flow it made was deleted.
        forgotten = {f"ticket-{ticket.number}" for ticket in self._tickets if ticket.deleted}
        lost = sum(ticket.lost_copies for ticket in self._tickets)
        used: dict[str, str] = {}
        for shard in self._shards.values():
            for flow in shard.flows.values():
                shown, key = f"{shard.number}-{flow.flow_id}", flow.idempotency_key
                rows = shard.shown(flow.flow_id, self._timeline.began)
                if key and key in used:
                    yield Finding(f"idempotency key {key} made {used[key]} and {shown} (O1)", where=rows)
                used[key] = shown
                if flow.flow_id not in shard.of_flow:
                    yield Finding(f"flow {shown} {flow.workflow} has no steps", where=rows)
                if flow.surgraph_flow_id is None and shown not in known and key not in forgotten:
                    lost -= not key
                    if key or lost < 0:
                        asked = [text for one in self._tickets if f"ticket-{one.number}" == key for text in one.story]
                        yield Finding(
                            f"nobody has the key of flow {shown} {flow.workflow} {key}", where=[*asked, *rows]
                        )
            for flow_id in shard.of_flow.keys() - shard.flows.keys():
                count = len(shard.of_flow[flow_id])
                yield Finding(f"{count} steps of flow {shard.number}-{flow_id}, which is not there")

    def _flow(self, ticket: Ticket) -> Iterator[str]:
        root = self._root(ticket)
        if root is None and ticket.deleted:
            return
        if ticket.deleted == "yes":
            yield "it was deleted, and it is there"
        if root is None or f"{self._shard_of(ticket)}-{root.flow_id}-{root.token}" != ticket.key:
            yield "a caller has its key, and it is not there"
            return
        shard = self._shards[self._shard_of(ticket)]
        for flow in self._tree(ticket):
            yield from (
                f"{shard.number}-{flow.flow_id} {flow.workflow}: {text}"
                for text in structure.problems(shard, flow, ticket.shape.overrides)
            )
        yield from self.undone(ticket).problems()
        yield from self._heard(ticket)
        yield from self._asked(ticket)
        yield from self._outcome(ticket, root)
        if ticket.shape.marked:
            yield from self._marks(ticket, root)
        yield from self._executed(ticket)
        if ticket.made_from is None:
            yield from self._phantoms(ticket)

    # -- events, compensations, plain services

    def undone(self, ticket: Ticket) -> Undone:
        """What was undone in a tree of flows."""
        root = self._root(ticket)
        assert root is not None
        shard = self._shards[self._shard_of(ticket)]
        again = ticket.again or ticket.made_from is not None
        return Undone(shard, root.flow_id, again, self._executions, self._calls)

    def _heard(self, ticket: Ticket) -> Iterator[str]:
        if not ticket.shape.events:
            return
        key = ticket.state["key"]
        events = [row for shard in self._shards.values() for row in shard.events if row.key == key]
        steps = self._steps(ticket)
        keys = {one.step_key for one in self._of_ticket.get(ticket.number, [])}
        yield from Heard(
            shard=self._shards[self._shard_of(ticket)],
            steps=steps,
            signals=ticket.signals,
            events=events,
            executions={key: self._executions[key] for key in sorted(keys)},
            whole=not ticket.again,
            several_shards=len(self._shards) > 1,
        ).problems()

    def _asked(self, ticket: Ticket) -> Iterator[str]:
        """A request that completed brought a reply of the service to this step; repetitions are told by their id (N3, N4)."""
        shard = self._shards[self._shard_of(ticket)]
        for step in self._steps(ticket):
            if not isinstance((node := shard.node(step)).action, SendRequest | PublishMessage):
                continue
            calls = self._calls.get(f"{shard.number}-{step.step_id}", [])
            ids = {call.message_id for call in calls}
            if "" in ids or len(ids) > step.reruns + 1:
                yield f"step {step.step_id} {step.node} ran {step.reruns} times again, and sent the ids {ids}"
            if step.status != "completed" or step.copied_from or not isinstance(node.action, SendRequest):
                continue
            reply = json.loads(step.changes).get(node.field)
            if reply and reply["receipt"] not in {call.receipt for call in calls}:
                yield f"step {step.step_id} {step.node} has {reply}, and sent {calls}"

    def struck(self) -> dict[str, int]:
        """How many flows were undone and how many steps received an event, and of how many a replica was killed meanwhile."""
        counts = dict.fromkeys(
            ("undone", "undone past a kill", "events", "events past a kill", "timeouts of events"), 0
        )
        for ticket in self._tickets:
            if self._root(ticket) is None:
                continue
            for line in self.undone(ticket).lines().values():
                counts["undone"] += 1
                since, until = line[0].created_at / 1e6, line[-1].updated_at / 1e6
                counts["undone past a kill"] += self._timeline.replicas_killed(since, until)
            for step in self._steps(ticket):
                woken = woken_late(step, ticket.signals)
                counts["events"] += woken is not None
                counts["events past a kill"] += woken is not None and self._timeline.replicas_killed(*woken)
                counts["timeouts of events"] += '"timedOut":true' in (step.event or "") and step.wait_event is not None
        return counts

    def _steps(self, ticket: Ticket) -> list[Row]:
        """Of all flows of a ticket."""
        shard = self._shards[self._shard_of(ticket)]
        return [step for flow in self._tree(ticket) for step in shard.of_flow.get(flow.flow_id, [])]

    # -- what came out

    def _outcome(self, ticket: Ticket, root: Row) -> Iterator[str]:
        told = ticket.outcome
        if root.status == "cancelled":
            if not ticket.cancelled:
                yield "it is cancelled, and nobody cancelled it"
            elif root.cancel_reason != "chaos":
                yield f"it is cancelled for {root.cancel_reason!r}"
            return
        if ticket.cancelled == "yes":
            yield f"a cancel was acknowledged, and it is {root.status}"
        if root.status not in structure.OVER or root.final_state is None:
            return
        state = json.loads(root.final_state)
        yield from ticket.shape.differences(ticket.state, root.status, state, root.error)
        if ticket.shape.marked:
            attempts = ticket.expected.attempts
            for step in self._shards[self._shard_of(ticket)].of_flow[root.flow_id]:
                if step.attempt != attempts.get(step.node, step.attempt):
                    yield f"step {step.step_id} {step.node} is at attempt {step.attempt}, should be {attempts[step.node]}"
        if told is not None and not ticket.again and told.state != state:
            yield f"its caller was told {told.status} {told.state}, and its final state is {state}"

    def _marks(self, ticket: Ticket, root: Row) -> Iterator[str]:
        """Each step took effect once, by an execution that a worker knows of, and of the steps that are there (X11)."""
        shard = self._shards[self._shard_of(ticket)]
        ids = {flow.flow_id for flow in self._tree(ticket)}
        seen: set[int] = set()
        for mark in json.loads(root.final_state or "{}").get("trace", []):
            node, number, execution = mark.split("/")
            step = shard.steps.get(int(number))
            if int(number) in seen:
                yield f"step {number} {node} took effect twice"
            seen.add(int(number))
            if ticket.made_from is not None:
                continue  # of a copied step the mark is the original's
            if step is None or step.flow_id not in ids or step.node != node:
                yield f"the mark {mark} is of no step of this flow"
                continue
            numbers = [one.number for one in self._executions.get(self._step_key(shard, step), [])]
            if execution not in numbers:
                yield f"the mark {mark} is of no execution of this step: {numbers}"

    def _executed(self, ticket: Ticket) -> Iterator[str]:
        """Every completed step was executed, to its end, at the attempt it is at (X11)."""
        shard = self._shards[self._shard_of(ticket)]
        began = {one.step_id for one in self._of_ticket.get(ticket.number, [])}
        for flow in self._tree(ticket):
            for step in shard.of_flow.get(flow.flow_id, []):
                if step.status != "completed" or shard.node(step).action is not None:
                    continue
                if ticket.made_from is not None and step.step_id not in began:
                    continue  # copied
                runs = self._executions.get(self._step_key(shard, step), [])
                if any(one.ended is not None and one.attempt == step.attempt for one in runs):
                    continue
                error = _error_of(step)
                if not _unanswered(error) and "reducer on field" not in error:
                    yield f"step {step.step_id} {step.node} is completed at attempt {step.attempt}, and no worker executed it"

    def _phantoms(self, ticket: Ticket) -> Iterator[str]:
        """Nothing was executed that is not there: a step is dispatched once it is written (design note 0001).

        In a pipelined flow it may be dispatched before, and be lost with its replica.
        """
        shard = self._shards[self._shard_of(ticket)]
        for one in self._of_ticket.get(ticket.number, []):
            step = shard.steps.get(one.step_id)
            if step is None:
                flow = shard.flows.get(int(one.flow_key.split("-")[1]))
                if flow is not None and not ticket.again and not shard.graphs[flow.graph_digest].pipelined:
                    yield f"step {one.step_id} {one.node} was executed, and is not there"
            elif self._step_key(shard, step) != one.step_key:
                yield f"step {one.step_id} {one.node} was executed under the key {one.step_key}"


def _error_of(step: Row) -> str:
    """What a step failed with, or what its error edge was taken for."""
    error = json.loads(step.error or "null") or json.loads(step.changes).get("onErr")
    return str(error.get("message", "")) if isinstance(error, dict) else ""  # a task may write anything into `onErr`


def _unanswered(error: str) -> bool:
    return UNANSWERED in error or (_AWAY in error and "no workflow" not in error)


def of_members(members: list[Member]) -> Iterator[Finding]:
    """What replicas and workers said that they must not say, and what they did not say: that they have drained."""
    for one in members:
        for path in one.said:
            text = path.read_text(errors="replace")
            for match in _DEFECTS.finditer(text):
                yield Finding(f"{path.name} says: {_around(text, match.start())}")
            if path in one.drained and "has drained" not in text:
                yield Finding(f"{path.name}: told to end, it did not drain: {text[-1500:]}")


def _around(text: str, at: int) -> str:
    begin = text.rfind("\n", 0, at) + 1
    return "\n    ".join(text[begin : begin + 3000].splitlines()[:30])
