"""From an answer to a settlement (X4-X9, S2, S6)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.rules.decide import Deciding, decide, fail, release
from dwarf_nats.rules.retries import MAX_DELAY_US
from dwarf_nats.rules.settlement import Settlement
from dwarf_nats.rules.steps import ClaimedStep, FlowContext, StepRef
from dwarf_nats.workflow.answer import Answer, ErrorInfo, EventWait, Retry, Subgraph
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.limits import Limits
from dwarf_nats.workflow.state import Raw, decode_state, state_from, to_values
from dwarf_nats.workflow.status import Status

LIMITS = Limits(1_000_000)


def line(*names: str) -> Graph:
    graph = Graph("line")
    graph.add_chain(*names, "END")
    return graph


GRAPH = line("a", "b", "c")


def step(node: str = "a", state: dict[str, object] | None = None, **more: object) -> ClaimedStep:
    flow = FlowContext(
        shard=1,
        flow_id=7,
        token="f" * 16,
        workflow="line",
        digest="d",
        graph=GRAPH,
        baggage=Raw(b"{}"),
        priority=100,
        fairness_key="",
        fairness_weight=1.0,
        time_budget_ms=None,
        notify="",
        thread_id=7,
        created_at=0,
        updated_at=0,
    )
    made = ClaimedStep(
        flow=flow,
        step_id=40,
        token="s" * 16,
        node=node,
        url=node,
        depth=1,
        attempt=0,
        lease_seq=1,
        state=state_from(state),
        changes={},
    )
    for name, value in more.items():
        setattr(made, name, value)
    return made


def settle(one: ClaimedStep, answer: Answer, limits: Limits = LIMITS) -> Settlement:
    ids = itertools.count(41)
    return decide(Deciding(one, GRAPH, lambda: StepRef(next(ids), "n" * 16), limits), answer)


def values(text: bytes) -> object:
    return to_values(decode_state(text))


def test_an_answer_leads_to_the_next_node_with_state_and_changes_merged() -> None:
    """S2, X7: the next step's input is merge(state, changes)."""
    settled = settle(step(state={"kept": 1, "old": 1}), Answer(changes=state_from({"old": 2, "new": 3})))
    assert (settled.status, settled.end, values(settled.changes_json())) == (
        Status.COMPLETED,
        None,
        {"old": 2, "new": 3},
    )
    born = settled.successor
    assert born is not None
    assert (born.step_id, born.node, born.depth, born.delay_us) == (41, "b", 2, 0)
    assert values(born.state_json) == {"kept": 1, "old": 2, "new": 3}


def test_the_last_step_completes_the_flow_with_the_merged_state() -> None:
    """X9."""
    settled = settle(step("c", {"a": 1}), Answer(changes=state_from({"b": 2})))
    assert settled.successor is None
    assert settled.end is not None
    assert (settled.end.status, values(settled.end.state_json)) == (Status.COMPLETED, {"a": 1, "b": 2})


def test_a_null_in_the_changes_removes_the_field_but_stays_in_the_changes() -> None:
    """S3."""
    settled = settle(step(state={"gone": 1, "kept": 2}), Answer(changes={"gone": Raw(b"null")}))
    assert settled.successor is not None
    assert values(settled.successor.state_json) == {"kept": 2}
    assert settled.changes_json() == b'{"gone":null}'


def test_what_earlier_attempts_changed_is_seen_by_the_next_step() -> None:
    """S2: input is state merged with the step's own earlier changes."""
    one = step(state={"n": 0, "gone": 1}, changes=state_from({"n": 1}) | {"gone": Raw(b"null")})
    settled = settle(one, Answer(changes=state_from({"m": 2})))
    assert settled.successor is not None
    assert values(settled.successor.state_json) == {"n": 1, "m": 2}
    assert values(settled.changes_json()) == {"n": 1, "gone": None, "m": 2}


def test_a_later_attempt_may_bring_back_what_an_earlier_one_removed() -> None:
    one = step(state={"x": 0}, changes={"x": Raw(b"null")})
    settled = settle(one, Answer(changes=state_from({"x": 5})))
    assert settled.successor is not None
    assert values(settled.successor.state_json) == {"x": 5}


def test_an_error_contributes_no_changes_but_keeps_those_of_earlier_attempts() -> None:
    """S6, X8: the flow fails with the error; its final state is the input of the step."""
    error = ErrorInfo("card declined", 402, {"card": "4242"})
    one = step(state={"a": 1}, changes=state_from({"tries": 1}))
    settled = settle(one, Answer(changes=state_from({"lost": 1}), error=error))
    assert (settled.status, settled.error, values(settled.changes_json())) == (Status.FAILED, error, {"tries": 1})
    assert settled.end is not None
    assert (settled.end.status, settled.end.error) == (Status.FAILED, error)
    assert values(settled.end.state_json) == {"a": 1, "tries": 1}


def test_a_step_that_waits_for_an_event_keeps_running_with_its_changes() -> None:
    """E2: a sleep beside it is ignored."""
    wait = EventWait("paid", "o-1", 5_000)
    settled = settle(step(), Answer(changes=state_from({"sent": True}), wait=wait, sleep_ms=50))
    assert (settled.status, settled.event_wait, settled.delay_us) == (Status.RUNNING, wait, 0)
    assert (settled.successor, values(settled.changes_json()), settled.outcome) == (None, {"sent": True}, "waiting")


def test_an_interrupt_may_have_a_deadline() -> None:
    """P6."""
    settled = settle(step(), Answer(interrupt=Raw(b'"well?"'), interrupt_timeout_ms=900))
    assert settled.pause is not None
    assert settled.pause.timeout_ms == 900


@pytest.mark.parametrize(
    "more",
    [Answer(interrupt=Raw(b"1")), Answer(retry=Retry()), Answer(goto="b"), Answer(subgraph=Subgraph("child"))],
    ids=["interrupt", "retry", "goto", "subgraph"],
)
def test_a_wait_for_an_event_comes_alone(more: Answer) -> None:
    """X4: more than one of interrupt, retry, goto, subgraph and wait is an error."""
    more.wait = EventWait("paid")
    settled = settle(step(), more)
    assert settled.status is Status.FAILED
    assert settled.error is not None
    assert "wait together: answer with one of them" in settled.error.message


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ({"resumed": Raw(b"1")}, "resumed"),
        ({"interrupt_timed_out": True}, "told that its interrupt timed out"),
        ({"event": Raw(b'{"timedOut":true}')}, "given the end of its wait for an event"),
        ({"subgraph_result": Raw(b"{}")}, "given the end of its sub-workflow"),
    ],
    ids=["resumed", "timed out", "event", "child"],
)
@pytest.mark.parametrize(
    "again",
    [Answer(interrupt=Raw(b"1")), Answer(wait=EventWait("paid")), Answer(subgraph=Subgraph("child"))],
    ids=["interrupt", "wait", "subgraph"],
)
def test_a_step_waits_once(before: dict[str, object], told: str, again: Answer) -> None:
    """X4, E2: a second park is an error, whatever the first was."""
    settled = settle(step(**before), again)
    assert settled.status is Status.FAILED
    assert settled.error is not None
    assert f"after it was {told}: a step waits once" in settled.error.message


def test_a_retry_puts_the_same_step_back_with_its_changes() -> None:
    """X5."""
    answer = Answer(changes=state_from({"seen": 1}), retry=Retry(initial_delay_ms=50, multiplier=2.0))
    settled = settle(step(attempt=2), answer)
    assert (settled.status, settled.attempt, settled.delay_us) == (Status.PENDING, 3, 200_000)
    assert (settled.successor, settled.end, values(settled.changes_json())) == (None, None, {"seen": 1})


def test_a_retry_with_a_sleep_waits_for_both() -> None:
    assert settle(step(), Answer(sleep_ms=30, retry=Retry(initial_delay_ms=50))).delay_us == 80_000


def test_an_error_with_a_retry_stands_only_once_the_retry_is_exhausted() -> None:
    """X4, X5, S6: a retry that is granted keeps what its answer changed, an error that stands contributes nothing."""
    error = ErrorInfo("flaky", 500)
    answer = Answer(changes=state_from({"tried": 1}), error=error, retry=Retry(max_attempts=2))
    first = settle(step(changes=state_from({"kept": 1})), answer)
    assert (first.status, values(first.changes_json())) == (Status.PENDING, {"kept": 1, "tried": 1})
    assert first.error == error  # to be shown (L3)
    last = settle(step(attempt=1, changes=state_from({"kept": 1})), answer)
    assert (last.status, last.error, values(last.changes_json())) == (Status.FAILED, error, {"kept": 1})


def test_the_changes_of_a_retry_with_an_error_are_bounded_like_any_others() -> None:
    """S1, S6."""
    answer = Answer(changes=state_from({"x": "y" * 100}), error=ErrorInfo("flaky"), retry=Retry(max_attempts=2))
    settled = settle(step(), answer, limits=Limits(max_state_bytes=50))
    assert settled.status is Status.FAILED
    assert settled.error is not None
    assert settled.error.code == 413
    last = settle(step(attempt=1), answer, limits=Limits(max_state_bytes=50))
    assert (last.status, last.error) == (Status.FAILED, ErrorInfo("flaky"))


@pytest.mark.parametrize(("attempt", "words"), [(0, "tried 1 time and"), (2, "tried 3 times and")])
def test_a_retry_exhausted_without_an_error_says_how_often_it_was_tried(attempt: int, words: str) -> None:
    settled = settle(step(attempt=attempt), Answer(retry=Retry(max_attempts=attempt + 1)))
    assert settled.status is Status.FAILED
    assert settled.error is not None
    assert words in settled.error.message


def test_the_sleep_of_a_retry_counts_towards_give_up_after() -> None:
    answer = Answer(sleep_ms=200, retry=Retry(initial_delay_ms=0, give_up_after_ms=1000))
    assert settle(step(age_us=800_000), answer).status is Status.PENDING
    assert settle(step(age_us=800_001), answer).status is Status.FAILED


def test_a_sleep_delays_the_next_step() -> None:
    """X6."""
    born = settle(step(), Answer(sleep_ms=1500)).successor
    assert born is not None
    assert born.delay_us == 1_500_000


def test_a_sleep_of_aeons_is_cut_to_what_a_due_time_can_hold() -> None:
    born = settle(step(), Answer(sleep_ms=2**70)).successor
    assert born is not None
    assert born.delay_us == MAX_DELAY_US
    assert settle(step(), Answer(sleep_ms=2**70, retry=Retry())).delay_us == MAX_DELAY_US


SIGNALS = {
    "interrupt": {"interrupt": Raw(b"{}")},
    "retry": {"retry": Retry()},
    "goto": {"goto": "b"},
    "subgraph": {"subgraph": Subgraph("child")},
}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(SIGNALS, 2)))
def test_competing_signals_are_an_error_of_the_step(one: str, other: str) -> None:
    """X4."""
    settled = settle(step(), Answer(**SIGNALS[one], **SIGNALS[other]))  # type: ignore[arg-type]
    assert settled.status is Status.FAILED
    assert settled.error is not None
    assert one in settled.error.message
    assert other in settled.error.message


def test_a_state_over_the_limit_fails_the_step_with_both_sizes() -> None:
    """S1."""
    settled = settle(step(state={"a": "x" * 50}), Answer(changes=state_from({"b": "y" * 50})), Limits(100))
    assert settled.status is Status.FAILED
    assert settled.error is not None
    assert settled.error.code == 413
    assert "115 bytes" in settled.error.message
    assert "100" in settled.error.message


@pytest.mark.parametrize("signal", ["interrupt", "retry"])
def test_changes_that_are_kept_for_the_next_execution_are_held_to_the_limit_too(signal: str) -> None:
    """S1, X5, P2."""
    one = step(state={"a": "x" * 50})
    settled = settle(one, Answer(changes=state_from({"b": "y" * 50}), **{signal: SIGNALS[signal][signal]}), Limits(100))  # type: ignore[arg-type]
    assert settled.error is not None
    assert (settled.status, settled.error.code) == (Status.FAILED, 413)


def test_a_step_given_back_is_as_it_was() -> None:
    """B3, B6: neither an attempt nor a change."""
    one = step(attempt=3, changes=state_from({"kept": 1}))
    back = release(one, 250_000)
    assert (back.status, back.attempt, back.delay_us, values(back.changes_json())) == (
        Status.PENDING,
        3,
        250_000,
        {"kept": 1},
    )


def test_a_failure_of_the_engines_own_is_like_any_other() -> None:
    settled = fail(step(state={"a": 1}), ErrorInfo("no", 500))
    assert settled.end is not None
    assert values(settled.end.state_json) == {"a": 1}


FIELDS = st.dictionaries(st.sampled_from("abcd"), st.none() | st.integers() | st.text(max_size=3), max_size=4)


@given(FIELDS, FIELDS, FIELDS)
def test_the_next_input_is_the_plain_merge_of_state_earlier_changes_and_changes(
    state: dict[str, object], earlier: dict[str, object], changes: dict[str, object]
) -> None:
    """S2, S3: as dictionaries, with null as the tombstone of a change."""

    def raw(fields: dict[str, object]) -> dict[str, Raw]:
        return {
            name: Raw(b"null") if value is None else state_from({"x": value})["x"] for name, value in fields.items()
        }

    small = {name: value for name, value in state.items() if not isinstance(value, int) or abs(value) < 2**63}
    early = {name: value for name, value in earlier.items() if not isinstance(value, int) or abs(value) < 2**63}
    late = {name: value for name, value in changes.items() if not isinstance(value, int) or abs(value) < 2**63}
    one = step(state=None, changes=raw(early))
    one.state = raw(small)
    expected: dict[str, object] = dict(small)
    for delta in (early, late):
        for name, value in delta.items():
            if value is None:
                expected.pop(name, None)
            else:
                expected[name] = value
    born = settle(one, Answer(changes=raw(late))).successor
    assert born is not None
    assert values(born.state_json) == expected


@given(st.integers(0, 50), st.integers(1, 50), st.booleans())
def test_a_step_is_executed_max_attempts_times_and_no_more(attempt: int, limit: int, fails: bool) -> None:
    """X5."""
    error = ErrorInfo("no", 500) if fails else None
    settled = settle(step(attempt=attempt), Answer(error=error, retry=Retry(max_attempts=limit)))
    assert (settled.status is Status.PENDING) is (attempt + 1 < limit)
    assert (settled.end is None) is (settled.status is Status.PENDING)
