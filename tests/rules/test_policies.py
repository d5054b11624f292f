"""The retry policy of a node (L1-L3)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from dwarf_nats.rules import retries
from dwarf_nats.rules.decide import Deciding, decide
from dwarf_nats.rules.settlement import Settlement
from dwarf_nats.rules.steps import ClaimedStep, StepRef
from dwarf_nats.workflow.answer import Answer, ErrorInfo, Retry
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.limits import Limits
from dwarf_nats.workflow.nodes import Defaults, RetryPolicy
from dwarf_nats.workflow.state import Raw, decode_state, state_from, to_values
from dwarf_nats.workflow.status import Status
from tests.rules.test_decide import step

ERROR = ErrorInfo("card declined", 402, {"card": "4242"})


def graph(policy: RetryPolicy | None = None, *, default: RetryPolicy | None = None, handled: bool = False) -> Graph:
    made = Graph("line")
    made.add_chain("a", "b", "END")
    if handled:
        made.add_transition("a", "b", on_error=True)
    made.nodes["a"].retry = policy
    made.defaults = Defaults(retry=default)
    return made


def settle(made: Graph, one: ClaimedStep, answer: Answer, *, chance: float = 0.0, max_steps: int = 10**6) -> Settlement:
    ids = itertools.count(41)
    limits = Limits(1_000_000, max_steps=max_steps)
    return decide(Deciding(one, made, lambda: StepRef(next(ids), "n" * 16), limits, lambda: chance), answer)


@pytest.mark.parametrize("code", [400, 408, 409, 500, 502, 7])
def test_an_error_of_any_kind_is_retried_with_what_earlier_attempts_changed(code: int) -> None:
    """L2, L3: the failed answer contributes nothing, and its error is kept to be shown."""
    one = step(attempt=1, changes=state_from({"seen": 1}))
    error = ErrorInfo("broken", code)
    settled = settle(graph(RetryPolicy()), one, Answer(changes=state_from({"lost": 1}), error=error))
    assert (settled.status, settled.attempt, settled.delay_us) == (Status.PENDING, 2, 200_000)
    assert (settled.error, to_values(decode_state(settled.changes_json()))) == (error, {"seen": 1})
    assert (settled.end, settled.successor, settled.outcome) == (None, None, "retried")


def test_the_policy_of_a_node_comes_before_that_of_its_graph() -> None:
    """L1: the graph has defaults."""
    fast, slow = RetryPolicy(initial_delay_ms=1), RetryPolicy(initial_delay_ms=1000)
    failed = Answer(error=ERROR)
    assert settle(graph(fast, default=slow), step(), failed).delay_us == 1_000
    assert settle(graph(default=slow), step(), failed).delay_us == 1_000_000
    assert settle(graph(), step(), failed).status is Status.FAILED


def test_the_attempts_are_counted_with_the_first_and_the_last_error_tells_them() -> None:
    """L1, L3: `maxAttempts` counts executions."""
    made = graph(RetryPolicy(max_attempts=3))
    assert settle(made, step(attempt=1), Answer(error=ERROR)).status is Status.PENDING
    last = settle(made, step(attempt=2), Answer(error=ERROR))
    assert last.status is Status.FAILED
    assert last.error == ErrorInfo("card declined (tried 3 times)", 402, {"card": "4242"})
    once = settle(graph(RetryPolicy(max_attempts=1)), step(), Answer(error=ERROR))
    assert once.error == ERROR


def test_the_error_edge_comes_after_the_last_attempt() -> None:
    """L3."""
    made = graph(RetryPolicy(max_attempts=2), handled=True)
    assert settle(made, step(), Answer(error=ERROR)).status is Status.PENDING
    last = settle(made, step(attempt=1), Answer(error=ERROR))
    assert last.status is Status.COMPLETED
    assert last.successor is not None
    told: Any = to_values(decode_state(last.successor.state_json))["onErr"]
    assert told == {"message": "card declined (tried 2 times)", "code": 402, "task": "a", "card": "4242"}


def test_a_step_gives_up_when_the_next_attempt_would_come_too_late() -> None:
    """L1: `giveUpAfterMs` counts from the first dispatch."""
    made = graph(RetryPolicy(give_up_after_ms=1000, initial_delay_ms=400, multiplier=1))
    assert settle(made, step(age_us=600_000), Answer(error=ERROR)).status is Status.PENDING
    assert settle(made, step(age_us=600_001), Answer(error=ERROR)).status is Status.FAILED


def test_without_a_bound_it_goes_on_for_ever() -> None:
    """L1."""
    settled = settle(graph(RetryPolicy()), step(attempt=10_000, age_us=10**15), Answer(error=ERROR))
    assert (settled.status, settled.delay_us) == (Status.PENDING, 60_000_000)


def test_only_errors_with_the_codes_named_are_retried() -> None:
    """L1."""
    made = graph(RetryPolicy(codes=(408, 502)))
    assert settle(made, step(), Answer(error=ErrorInfo("late", 408))).status is Status.PENDING
    assert settle(made, step(), Answer(error=ERROR)).status is Status.FAILED


def test_a_final_error_is_not_retried() -> None:
    """L2: only `true` makes it final."""
    made = graph(RetryPolicy())
    assert settle(made, step(), Answer(error=ErrorInfo("no", 500, {"final": True}))).status is Status.FAILED
    assert settle(made, step(), Answer(error=ErrorInfo("no", 500, {"final": "yes"}))).status is Status.PENDING


def test_the_retry_of_a_reply_beats_the_policy_also_when_it_is_exhausted() -> None:
    """L2, X5."""
    made = graph(RetryPolicy(initial_delay_ms=5))
    granted = settle(made, step(), Answer(error=ERROR, retry=Retry(initial_delay_ms=70)))
    assert (granted.status, granted.delay_us, granted.error) == (Status.PENDING, 70_000, ERROR)
    spent = settle(made, step(attempt=1), Answer(error=ERROR, retry=Retry(max_attempts=2)))
    assert (spent.status, spent.error) == (Status.FAILED, ERROR)
    without_error = settle(made, step(attempt=1), Answer(retry=Retry(max_attempts=2)))
    assert without_error.status is Status.FAILED
    assert without_error.error is not None
    assert "tried 2 times" in without_error.error.message


@pytest.mark.parametrize(("chance", "delay_us"), [(0.0, 100_000), (0.5, 75_000), (1.0, 50_000)])
def test_a_delay_is_shortened_by_chance_up_to_its_jitter(chance: float, delay_us: int) -> None:
    """L1."""
    settled = settle(graph(RetryPolicy(jitter=0.5)), step(), Answer(error=ERROR), chance=chance)
    assert settled.delay_us == delay_us


def test_jitter_is_drawn_for_each_delay() -> None:
    """L1: with chance as it is, delays differ."""
    delays = {settle_once() for _ in range(50)}
    assert len(delays) > 1
    assert all(50_000 <= delay <= 100_000 for delay in delays)


def settle_once() -> int:
    made = graph(RetryPolicy(jitter=0.5))
    return decide(Deciding(step(), made, lambda: StepRef(41, ""), Limits(1000)), Answer(error=ERROR)).delay_us


def test_what_the_engine_finds_itself_is_retried_as_well() -> None:
    """L2, X4: a goto without an edge."""
    settled = settle(graph(RetryPolicy()), step(), Answer(goto="nowhere"))
    assert settled.status is Status.PENDING
    assert settled.error is not None
    assert "nowhere" in settled.error.message


@pytest.mark.parametrize(
    "parked", [{"resumed": Raw(b"1")}, {"event": Raw(b"{}")}, {"subgraph_error": ErrorInfo("no", 404)}]
)
def test_a_retry_forgets_the_wait_that_is_over(parked: dict[str, object]) -> None:
    """X5, L2: it happens again."""
    assert settle(graph(RetryPolicy()), step(**parked), Answer(error=ERROR)).forgets
    assert not settle(graph(RetryPolicy()), step(), Answer(error=ERROR)).forgets


def test_a_fan_in_that_cannot_merge_is_not_retried() -> None:
    """F3: what the branches changed stays as it is."""
    assert settle(graph(RetryPolicy()), step(unmerged=ERROR), Answer(error=ERROR)).status is Status.FAILED


def test_a_flow_with_too_many_steps_is_not_retried() -> None:
    settled = settle(graph(RetryPolicy()), step(depth=3), Answer(), max_steps=3)
    assert settled.status is Status.FAILED
    assert settled.error is not None
    assert "max_steps" in settled.error.message


def test_a_policy_without_delay_retries_at_once() -> None:
    assert retries.shortened(0, 0.5, lambda: 1.0) == 0
    assert settle(graph(RetryPolicy(initial_delay_ms=0)), step(), Answer(error=ERROR)).delay_us == 0
