"""What must hold of events: each that was answered is kept or was received, none twice, and never beside a timeout (E1-E3)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dwarf_nats.workflow.nodes import WaitForEvent
from tests.chaos.account import Execution
from tests.chaos.node_shapes import PAID
from tests.chaos.rows import Row, Shard
from tests.chaos.signals import Signal


@dataclass
class Heard:
    """The events of one key, and the steps of the flows that waited for them.

    `whole`: no step that may have received one is gone. `events`: the rows of that key, of all shards.
    """

    shard: Shard
    steps: Sequence[Row]
    signals: Sequence[Signal]
    events: Sequence[Row]
    executions: Mapping[str, Sequence[Execution]]
    whole: bool
    several_shards: bool

    def problems(self) -> Iterator[str]:
        by_id = {one.id: one for one in self.signals}
        got: Counter[str] = Counter()
        for step in self.steps:
            if step.wait_event is None:
                continue
            event = json.loads(step.event) if step.event else None
            yield from (f"step {step.step_id} {step.node}: {text}" for text in self._step(step, event, by_id))
            if event is not None and "id" in event:
                got[event["id"]] += 1
        yield from self._rows(got, by_id)
        yield from self._account()
        if self.whole:
            yield from self._sequence()

    def _step(self, step: Row, event: Any, by_id: Mapping[str, Signal]) -> Iterator[str]:
        if event is None:
            if step.status == "completed":
                yield "it is completed, and neither event nor timeout came"
            return
        timed_out = event.get("timedOut") is True
        if timed_out == ("id" in event):
            yield f"its wait ended with {event}"
            return
        signal = by_id.get(event.get("id", ""))
        if not timed_out and (signal is None or signal.event != step.wait_event or event["data"] != signal.data):
            yield f"it waited for {step.wait_event}, and received {event}, which nobody signalled"
        node, changes = self.shard.node(step), json.loads(step.changes)
        if step.status != "completed" or not isinstance(node.action, WaitForEvent):
            return
        if timed_out == (node.field in changes) or timed_out != ("onErr" in changes):
            yield f"its wait ended with {event}, and it changed {changes}"
        elif not timed_out and changes[node.field] != event["data"]:
            yield f"it received {event}, and changed {changes}"

    def _rows(self, got: Counter[str], by_id: Mapping[str, Signal]) -> Iterator[str]:
        rows = {row.id: row for row in self.events}
        if len(rows) != len(self.events):
            yield f"an id has several rows: {sorted(row.id for row in self.events)}"
        for row in self.events:
            count, shown = (
                got[row.id],
                f"event {row.event} {row.id} ({row.state}, delivered {row.delivered}, kept {row.kept})",
            )
            if row.state not in ("kept", "done"):
                yield f"{shown} is not settled"
            if row.state == "kept" and count:
                yield f"{shown} is kept, and {count} steps received it"
            if row.kept and count > 1 and not self.several_shards:
                yield f"{shown} was kept, and {count} steps received it"
            if self.whole and row.state == "done" and count != (1 if row.kept else row.delivered):
                more = row.kept and self.several_shards and count > 1  # a shard that was away had several that waited
                if not more:
                    yield f"{shown}: {count} steps received it"
        for signal in self.signals:
            if signal.answers and signal.id not in rows:
                yield f"event {signal.event} {signal.id} was answered {signal.answers}, and is gone"
            elif signal.answers and signal.answers[0] != (rows[signal.id].delivered, bool(rows[signal.id].kept)):
                yield f"event {signal.event} {signal.id} was answered {signal.answers}, and its row says otherwise"
        for row in self.events:
            if row.id not in by_id:
                yield f"event {row.event} {row.id} was signalled by nobody"

    def _account(self) -> Iterator[str]:
        """What workers received: a step keeps its event until it is run again, and no other step has it."""
        owners: dict[str, str] = {}
        for key, runs in self.executions.items():
            order: list[str] = []
            for run in sorted((one for one in runs if one.heard), key=lambda one: one.began):
                if owners.setdefault(run.heard, key) != key:
                    yield f"event {run.heard} was received by {owners[run.heard]} and {key}"
                if order[-1:] != [run.heard]:
                    order.append(run.heard)
            if len(set(order)) != len(order):
                yield f"step {key} received {order}"
            if self.whole and len(order) > 1:
                yield f"step {key} was not run again, and received {order}"

    def _sequence(self) -> Iterator[str]:
        """Of one name the oldest first (E3)."""
        ids = {one.id: one.number for one in self.signals}
        found = [
            (step.depth, ids.get(json.loads(step.event).get("id"), 0))
            for step in self.steps
            if step.wait_event == PAID and step.event
        ]
        numbers = [number for _, number in sorted(found)]
        if self.several_shards:  # one that was away when the first event came may receive that one later
            return
        if numbers != sorted(set(numbers)):
            yield f"the events {numbers} were received in this order"
        first = [one.number for one in self.signals if one.event == PAID][: len(numbers)]
        if numbers != first:
            yield f"the events {numbers} were received, the first signalled were {first}"


def woken_late(step: Row, signals: Sequence[Signal]) -> tuple[float, float] | None:
    """From when its event was signalled until it went on."""
    event = json.loads(step.event) if step.event else {}
    for one in signals:
        if one.id == event.get("id"):
            return one.sent, step.updated_at / 1e6
    return None
