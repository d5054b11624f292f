"""Numbers about workflows and tasks, from the flows of a list. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dwarf_nats.wire.times import micros

ORDER = ("completed", "running", "interrupted", "created", "failed", "cancelled")
"""Statuses as a bar shows them, from left to right."""


@dataclass(slots=True)
class Rates:
    """The ends of the flows of one workflow. Durations in microseconds, of completed flows, `None` without any."""

    counts: Counter[str] = field(default_factory=Counter)
    durations: list[int] = field(default_factory=list)
    newest: str = ""

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def success(self) -> float | None:
        """The share of completed flows among those that completed or failed."""
        ended = self.counts["completed"] + self.counts["failed"]
        return self.counts["completed"] / ended if ended else None

    def quantile(self, share: float) -> int | None:
        """The duration that this share of the completed flows did not exceed."""
        if not self.durations:
            return None
        ordered = sorted(self.durations)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def bar(self) -> list[tuple[str, float, float]]:
        """Status, beginning and width of each part of a bar of width 100."""
        found: list[tuple[str, float, float]] = []
        at = 0.0
        for status in ORDER:
            if self.counts[status]:
                width = 100 * self.counts[status] / self.total
                found.append((status, round(at, 2), round(width, 2)))
                at += width
        return found


def by_workflow(flows: Iterable[Mapping[str, Any]]) -> dict[str, Rates]:
    """The rates of each workflow in a list of flows, newest first."""
    found: dict[str, Rates] = {}
    for flow in flows:
        rates = found.setdefault(flow["workflow"], Rates())
        rates.counts[flow["status"]] += 1
        rates.newest = rates.newest or flow["createdAt"]
        if flow["status"] == "completed" and flow.get("startedAt"):
            rates.durations.append(max(0, micros(flow["updatedAt"]) - micros(flow["startedAt"])))
    return found


@dataclass(slots=True)
class Waiting:
    """Flows that stand at one task, by what they wait for."""

    reasons: Counter[str] = field(default_factory=Counter)
    oldest: str = ""

    @property
    def running(self) -> int:
        return self.reasons["running"]

    @property
    def queued(self) -> int:
        """Flows whose step is due, and not taken up."""
        return sum(self.reasons[one] for one in ("queued", "no_responders", "unavailable", "overloaded"))


def by_task(flows: Sequence[Mapping[str, Any]], urls: Mapping[tuple[str, str], str]) -> dict[str, Waiting]:
    """What flows that are under way wait for, by task. `urls`: workflow and node → the url of its task, where known."""
    found: dict[str, Waiting] = {}
    for flow in flows:
        waits = flow.get("waitsFor")
        if not waits:
            continue
        node = waits["task"]
        waiting = found.setdefault(waits.get("url") or urls.get((flow["workflow"], node), node), Waiting())
        waiting.reasons[waits["reason"]] += 1
        waiting.oldest = min(waiting.oldest or waits["since"], waits["since"])
    return found
