"""The effects of a commit, in their order: drop, dispatch or release, count, hint, announce."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from dwarf_nats.engine.execution.after_commit import AfterCommit
from dwarf_nats.rules.decide import release
from dwarf_nats.rules.settlement import Applied, Settlement, SettleResult
from dwarf_nats.rules.steps import ClaimedStep
from dwarf_nats.telemetry.counters import Counters
from dwarf_nats.workflow.status import Status
from tests.support.stores import born, ended, new_flow, went_on

AT = 1_000


class Parts:
    """The parts around it, which note in one list what they are told."""

    def __init__(self, held: frozenset[str] = frozenset()) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.counters = Counters()
        self.defect: str = ""
        self._held = held

    def after_commit(self) -> AfterCommit:
        part: Any = self
        shared: Any = SimpleNamespace(
            clock=SimpleNamespace(now=lambda: AT),
            slots=SimpleNamespace(release=lambda url: self._note("release slot", url)),
            counters=self.counters,
            event_asks=part,
            limits=part,
            logger=logging.getLogger("tests"),
        )
        quiet: Any = SimpleNamespace(enabled=False)
        return AfterCommit(
            shared,
            in_flight=part,
            executor=part,
            announcer=part,
            ready_queue=part,
            deadlines=part,
            backpressure=part,
            debug_log=quiet,
        )

    def _note(self, *what: Any) -> None:
        self.told.append(what)
        if what[0] == self.defect:
            self.defect = ""
            raise RuntimeError("a defect")

    def drop(self, step: ClaimedStep) -> None:
        self._note("drop", step.step_id)

    def dispatch_successor(self, _flow: Any, new: Any) -> None:
        self._note("dispatch", new.url)

    def dispatch_first(self, new: Any, created_at: int) -> None:
        self._note("dispatch first", new.url, created_at)

    def hint_flow(self, _flow: Any, delay_us: int = 0, steps: int = 1, **_: Any) -> None:
        self._note("hint", delay_us, steps)

    def holds(self, url: str) -> bool:
        return url in self._held

    def on_new_work(self) -> None:
        self._note("new work")

    def stopped(self, _flow: Any, outcome: Any, at: int) -> str:
        self._note("stopped", outcome.status.value)
        return f"{outcome.status.value} at {at}"

    def announce(self, changed: Any, pending: Any, ended: Any) -> None:
        self._note("announce", list(changed), [one.not_before for one in pending], [one.status for one in ended])

    def perhaps_stopped(self, _flow_id: int) -> None:
        self._note("perhaps stopped")

    def note(self, delay_us: int) -> None:
        self._note("deadline", delay_us)


def claimed() -> ClaimedStep:
    return born(new_flow())


def follow_up(parts: Parts, *settlements: Settlement, alive: bool = True) -> list[tuple[Any, ...]]:
    applied = {one.step.step_id: Applied(alive, AT) for one in settlements}
    parts.after_commit().settled(settlements, SettleResult(applied=applied))
    return parts.told


def test_a_successor_that_starts_eagerly_takes_over_the_slot() -> None:
    parts = Parts()
    step = claimed()
    assert follow_up(parts, went_on(step, eager=True)) == [
        ("drop", step.step_id),
        ("dispatch", "b"),
        ("announce", [], [], []),
    ]
    assert dict(parts.counters.executed) == {("a", "completed"): 1}


def test_a_successor_that_waits_is_hinted_at_and_told() -> None:
    parts = Parts()
    step = claimed()
    assert follow_up(parts, went_on(step, delay_us=50)) == [
        ("drop", step.step_id),
        ("release slot", "a"),
        ("hint", 50, 1),
        ("announce", [], [AT + 50], []),
    ]


def test_the_slot_that_is_released_is_the_one_it_counts_for() -> None:
    """C6: the slot was handed over to a step that may not start after all."""
    step = claimed()
    step.slot = "b"
    assert follow_up(Parts(), went_on(step))[1] == ("release slot", "b")


def test_the_end_of_a_flow_is_told_after_its_slot_is_free() -> None:
    parts = Parts()
    step = claimed()
    assert follow_up(parts, ended(step)) == [
        ("drop", step.step_id),
        ("release slot", "a"),
        ("stopped", "completed"),
        ("announce", [f"completed at {AT}"], [], [Status.COMPLETED]),
    ]


def test_a_step_of_a_flow_that_ended_meanwhile_starts_nothing() -> None:
    parts = Parts()
    step = claimed()
    assert follow_up(parts, went_on(step, eager=True), alive=False) == [
        ("drop", step.step_id),
        ("release slot", "a"),
        ("announce", [], [], []),
    ]
    assert dict(parts.counters.executed) == {("a", "cancelled"): 1}


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (frozenset({"a"}), [("new work",), ("announce", [], [], [])]),
        (frozenset[str](), [("hint", 7, 1), ("announce", [], [AT + 7], [])]),
    ],
    ids=["its breaker holds it", "it is pending"],
)
def test_a_released_step_is_hinted_at_unless_its_breaker_holds_it(held: frozenset[str], told: list[Any]) -> None:
    parts = Parts(held)
    step = claimed()
    assert follow_up(parts, release(step, 7)) == [("drop", step.step_id), ("release slot", "a"), *told]
    assert dict(parts.counters.given_back) == {("a",): 1}


def test_a_group_is_announced_together_though_one_member_meets_a_defect(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    parts.defect = "stopped"
    first, second = claimed(), claimed()
    told = follow_up(parts, ended(first), went_on(second))
    assert told[-1] == ("announce", [], [AT], [])
    assert [what for what, *_ in told].count("release slot") == 2
    assert "a defect after the commit" in caplog.text


def test_a_result_that_was_fenced_off_frees_its_slot_and_has_waiters_look() -> None:
    """X1: perhaps it was written by a commit whose answer was lost."""
    parts = Parts()
    step = claimed()
    parts.after_commit().fenced(ended(step))
    assert parts.told == [("drop", step.step_id), ("release slot", "a"), ("perhaps stopped",)]
    assert parts.counters.fenced.total() == 1
