"""The flow object, the binding of arguments and the run of a task function: S2, S3, S6, X4, X5, X6, P1, P2."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk.task_codec import encode_answer
from dwarf_nats.wire.tasks import decode_reply
from dwarf_nats.workflow.answer import (
    MAX_DELAY_MS,
    Answer,
    Disposition,
    ErrorInfo,
    Retry,
    Subgraph,
    TaskCall,
)
from dwarf_nats.workflow.arguments import run_task
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.prepared import bind, changes_of
from dwarf_nats.workflow.state import Raw, state_from, to_values
from dwarf_nats.workflow.task_error import SubgraphError, TaskError, error_info

if TYPE_CHECKING:
    from dwarf_nats.workflow.flow import Flow as Carrier


def call(state: Mapping[str, Any] | None = None, **more: Any) -> TaskCall:
    values: dict[str, Any] = {
        "flow_key": "1-1-aaaaaaaaaaaaaaaa",
        "step_key": "1-2-bbbbbbbbbbbbbbbb",
        "workflow": "orders",
        "task": "charge",
        "url": "billing.charge",
        "attempt": 1,
        "state": state_from(state),
        "baggage": Raw(b'{"tenant":"t"}'),
        "flow_created_at": 1_700_000_000_000_001,
        "flow_updated_at": 1_700_000_001_000_000,
        "deadline": 1_700_000_120_000_000,
        "budget": 120.0,
    }
    return TaskCall(**{**values, **more})


def flow_of(state: Mapping[str, Any] | None = None, **more: Any) -> Flow:
    return Flow.from_call(call(state, **more))


async def changes(function: Callable[..., Any], state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    answer = await run_task(function, call(state))
    assert answer.error is None, answer.error
    return to_values(answer.changes)


async def error(function: Callable[..., Any], state: Mapping[str, Any] | None = None) -> ErrorInfo:
    answer = await run_task(function, call(state))
    assert answer.error is not None
    assert answer.changes == {}
    return answer.error


# -- the flow object -------------------------------------------------------------------------------------------------


def test_the_flow_object_tells_where_it_is() -> None:
    flow = flow_of()
    assert (flow.flow_key, flow.step_key) == ("1-1-aaaaaaaaaaaaaaaa", "1-2-bbbbbbbbbbbbbbbb")
    assert (flow.workflow, flow.task, flow.url, flow.attempt) == ("orders", "charge", "billing.charge", 1)
    assert flow.baggage == {"tenant": "t"}
    assert flow.created_at == datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC)
    assert flow.deadline - flow.updated_at == timedelta(seconds=119)


def test_s2_get_sees_what_was_set_and_state_what_was_received() -> None:
    flow = flow_of({"a": 1, "b": [1], "n": None})
    flow.set("a", 2)
    flow.set("c", {"x": 1})
    assert flow.get("a") == 2
    assert flow.get("b") == [1]
    assert flow.get("n", "default") is None
    assert flow.get("missing", "default") == "default"
    assert flow.state == {"a": 1, "b": [1], "n": None}
    assert flow.changes == {"a": 2, "c": {"x": 1}}
    assert flow.names == {"a", "b", "c", "n"}


def test_s2_a_value_is_taken_as_it_is_when_set() -> None:
    flow, rows = flow_of(), [1]
    flow.set("rows", rows)
    rows.append(2)
    assert flow.get("rows") == [1]


@dataclass
class Point:
    x: int
    y: int = 0


class Box(msgspec.Struct):
    at: Point


def test_get_converts_to_a_type_and_says_what_does_not_fit() -> None:
    flow = flow_of({"p": {"x": 1}, "b": {"at": {"x": 2}}, "d": "2020-01-01T00:00:00Z", "n": 5})
    assert flow.get("p", type=Point) == Point(1)
    assert flow.get("b", type=Box) == Box(Point(2))
    assert flow.get("d", type=datetime) == datetime(2020, 1, 1, tzinfo=UTC)
    assert flow.get("missing", 3, int) == 3
    with pytest.raises(TaskError, match=r"state field `n`: Expected `str`, got `int`") as refusal:
        flow.get("n", type=str)
    assert refusal.value.code == 400


def test_s3_delete_and_clear_leave_tombstones() -> None:
    flow = flow_of({"a": 1, "b": 2})
    flow.delete("a")
    flow.set("c", 3)
    assert flow.get("a", "gone") == "gone"
    assert flow.changes == {"a": None, "c": 3}
    flow.clear()
    assert flow.changes == {"a": None, "b": None}
    assert flow.names == set()
    flow.set("a", None)
    assert flow.names == set()


def test_transform_reads_changes_and_writes() -> None:
    flow = flow_of({"n": 1})
    assert flow.transform("n", lambda n: n + 1) == 2
    assert flow.transform("n", lambda n: n + 1) == 3
    assert flow.transform("rows", lambda rows: [*rows, 1], default=[]) == [1]
    assert flow.changes == {"n": 3, "rows": [1]}


@pytest.mark.parametrize("value", [float("nan"), 2**63, "\ud800", object(), {1: 1}])
def test_s1_what_cannot_be_stored_is_refused_when_set(value: Any) -> None:
    flow = flow_of()
    with pytest.raises(BadRequest, match="state field `a`"):
        flow.set("a", value)
    assert flow.changes == {}


def test_x5_x6_wishes_become_the_answer() -> None:
    flow = flow_of()
    flow.update({"a": 1})
    flow.goto("review")
    flow.sleep(timedelta(seconds=1.5))
    flow.retry(3, initial_delay=0.25, multiplier=2, max_delay=timedelta(minutes=1), give_up_after=3600)
    answer = flow.answer()
    assert answer == Answer(
        changes=answer.changes,
        goto="review",
        sleep_ms=1500,
        retry=Retry(3, 250, 2, 60_000, 3_600_000),
    )
    assert to_values(answer.changes) == {"a": 1}


@pytest.mark.parametrize(
    "wish",
    [
        lambda flow: flow.sleep(-1),
        lambda flow: flow.sleep(float("nan")),
        lambda flow: flow.retry(0),
        lambda flow: flow.retry(3, initial_delay=-1),
        lambda flow: flow.retry(3, multiplier=float("inf")),
    ],
)
def test_x5_senseless_delays_are_refused(wish: Callable[[Flow], None]) -> None:
    with pytest.raises(TaskError):
        wish(flow_of())


async def test_p2_interrupt_ends_the_execution_and_returns_the_data_after_the_resume() -> None:
    def task(flow: Flow) -> dict[str, Any]:
        flow.set("asked", True)
        return {"approved": flow.interrupt({"question": "ok?"})}

    first = await run_task(task, call())
    assert first.error is None
    assert first.interrupt is not None
    assert bytes(first.interrupt) == b'{"question":"ok?"}'
    assert to_values(first.changes) == {"asked": True}
    second = await run_task(task, call(resumed=Raw(b'"yes"')))
    assert second.interrupt is None
    assert to_values(second.changes) == {"asked": True, "approved": "yes"}
    third = await run_task(task, call(resumed=Raw(b"null")))
    assert third.interrupt is None
    assert to_values(third.changes) == {"asked": True, "approved": None}


async def test_p2_a_second_interrupt_of_one_execution_is_sent_for_the_engine_to_judge() -> None:
    def task(flow: Flow) -> None:
        flow.interrupt(1)
        flow.interrupt(2)

    answer = await run_task(task, call(resumed=Raw(b"{}")))
    assert answer.interrupt is not None
    assert bytes(answer.interrupt) == b"2"


async def test_p1_subgraph_ends_the_execution_and_returns_the_childs_state() -> None:
    async def task(flow: Flow) -> dict[str, Any]:
        return {"total": flow.subgraph("pricing", {"sku": "x"})["price"]}

    first = await run_task(task, call())
    assert first.subgraph is not None
    assert first.subgraph.workflow == "pricing"
    assert to_values(first.subgraph.input) == {"sku": "x"}
    second = await run_task(task, call(subgraph_result=Raw(b'{"price":5}')))
    assert second.subgraph is None
    assert to_values(second.changes) == {"total": 5}


async def test_p1_a_failed_child_is_raised_and_may_be_handled() -> None:
    def handles(flow: Flow) -> dict[str, str]:
        try:
            flow.subgraph("pricing")
        except SubgraphError as failed:
            return {"why": failed.message}
        return {}

    def does_not(flow: Flow) -> None:
        flow.subgraph("pricing")

    failed = call(subgraph_error="no price")
    assert to_values((await run_task(handles, failed)).changes) == {"why": "no price"}
    assert (await run_task(does_not, failed)).error == ErrorInfo("no price", 500)
    assert (await run_task(does_not, call())).subgraph == Subgraph("pricing")


async def test_p2_a_task_that_catches_exceptions_does_not_swallow_the_pause() -> None:
    def task(flow: Flow) -> None:
        try:
            flow.interrupt()
        except Exception:
            flow.set("swallowed", True)

    answer = await run_task(task, call())
    assert answer.interrupt is not None
    assert bytes(answer.interrupt) == b"null"
    assert answer.changes == {}


# -- arguments -------------------------------------------------------------------------------------------------------


async def test_arguments_are_filled_by_name_and_type() -> None:
    def task(
        sku: str, n: int, price: Decimal, point: Point, box: Box, day: datetime, bare, *, tags: list[str] | None = None
    ):  # type: ignore[no-untyped-def]
        return {"out": [sku, n, str(price), point.x, box.at.y, day.year, bare, tags]}

    state = Raw(b"1.10")
    filled = {
        "sku": "x",
        "n": 2**62,
        "price": state,
        "point": {"x": 1},
        "box": {"at": {"x": 1, "y": 2}},
        "day": "2020-01-01T00:00:00Z",
        "bare": {"any": [1]},
        "unused": 1,
    }
    assert await changes(task, filled) == {"out": ["x", 2**62, "1.10", 1, 2, 2020, {"any": [1]}, None]}


async def test_defaults_are_honoured_and_an_optional_field_may_be_missing() -> None:
    def task(a: int, b: int = 2, c: int | None = 3, d: int | None = None) -> dict[str, Any]:
        return {"out": [a, b, c, d]}

    def optional(a: int | None) -> dict[str, Any]:
        return {"out": a}

    assert await changes(task, {"a": 1}) == {"out": [1, 2, 3, None]}
    assert await changes(task, {"a": 1, "c": None}) == {"out": [1, 2, None, None]}
    assert await changes(optional) == {"out": None}


async def test_a_missing_field_and_a_wrong_type_are_told_by_name() -> None:
    def task(total: int) -> None: ...

    missing = await error(task)
    assert missing.code == 400
    assert "task charge needs the state field `total`" in missing.message
    wrong = await error(task, {"total": "x"})
    assert wrong.code == 400
    assert wrong.message == "task charge: state field `total`: Expected `int`, got `str`"
    null = await error(task, {"total": None})
    assert "Expected `int`, got `null`" in null.message


async def test_the_flow_object_goes_to_a_parameter_of_its_type_or_name() -> None:
    def named(flow, a: int):  # type: ignore[no-untyped-def]
        flow.set("out", a)

    def typed(carrier: Flow, a: int) -> None:
        carrier.set("out", a)

    def optional(carrier: Flow | None = None, a: int = 0) -> None:
        assert carrier is not None
        carrier.set("out", a)

    def field(flow: str) -> dict[str, str]:
        return {"out": flow}

    for function in (named, typed, optional):
        assert await changes(function, {"a": 1}) == {"out": 1}
    assert await changes(field, {"flow": "text"}) == {"out": "text"}


async def test_the_rest_of_the_state_goes_to_keyword_arguments() -> None:
    def task(a: int, flow: Flow, **rest: Any) -> dict[str, Any]:
        return {"out": rest, "a": flow.get("a") + a}

    assert await changes(task, {"a": 1, "b": 2, "c": None}) == {"out": {"b": 2, "c": None}, "a": 2}


class Service:
    async def charge(self, total: int) -> dict[str, int]:
        return {"out": total}

    async def __call__(self, total: int) -> dict[str, int]:
        return {"out": total + 1}

    __hash__ = None  # type: ignore[assignment]


async def test_methods_callables_and_partials_are_task_functions() -> None:
    def task(a: int, b: int) -> dict[str, int]:
        return {"out": a + b}

    async def later(a: int) -> dict[str, int]:
        return {"out": a}

    assert await changes(Service().charge, {"total": 1}) == {"out": 1}
    assert await changes(Service(), {"total": 1}) == {"out": 2}
    assert await changes(functools.partial(task, b=5), {"a": 1}) == {"out": 6}
    assert await changes(functools.partial(later), {"a": 1}) == {"out": 1}
    assert await changes(lambda a: later(a), {"a": 1}) == {"out": 1}


def test_functions_that_can_never_be_called_are_refused_when_bound() -> None:
    def positional(a: int, /) -> None: ...

    def several(*a: int) -> None: ...

    def unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for function in (positional, several, unknown):
        with pytest.raises(TypeError, match=function.__name__):
            bind(function)


def test_unresolvable_return_annotations_and_type_checking_imports_of_flow_do_no_harm() -> None:
    def task(a: int, carrier: Carrier | None = None) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821

    def carried(carrier: Flow) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="Carrier"):
        bind(task)
    flow = flow_of()
    assert bind(carried)(flow) == {"carrier": flow}


# -- results ---------------------------------------------------------------------------------------------------------


async def test_what_is_returned_becomes_changes_and_wins_over_what_was_set() -> None:
    def task(flow: Flow) -> dict[str, Any]:
        flow.set("a", 1)
        flow.set("b", 1)
        return {"b": 2, "c": None}

    assert await changes(task) == {"a": 1, "b": 2, "c": None}
    assert await changes(lambda: Point(1, 2)) == {"x": 1, "y": 2}
    assert await changes(lambda: Box(Point(1))) == {"at": {"x": 1, "y": 0}}
    assert await changes(lambda: None) == {}


@pytest.mark.parametrize("returned", [1, "text", [1], (1, 2), True, object(), Point, {1: 2}, {"a": object()}])
def test_anything_else_that_is_returned_is_refused(returned: Any) -> None:
    with pytest.raises((TaskError, BadRequest)):
        changes_of(returned)


async def test_a_returned_list_is_told_what_to_return_instead() -> None:
    assert 'return {"field": value}' in (await error(lambda: [1])).message
    assert "JSON cannot hold" in (await error(lambda: {"n": float("nan")})).message


# -- errors ----------------------------------------------------------------------------------------------------------


def raising(problem: BaseException) -> Callable[[], None]:
    def task() -> None:
        raise problem

    return task


def araising(problem: BaseException) -> Callable[[], Any]:
    async def task() -> None:
        raise problem

    return task


class Declined(Exception):
    code = 402


@pytest.mark.parametrize("wrap", [raising, araising])
@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (ValueError("bad"), ErrorInfo("ValueError: bad", 500)),
        (KeyError("x"), ErrorInfo("KeyError: 'x'", 500)),
        (ValueError(), ErrorInfo("ValueError", 500)),
        (TaskError("declined", code=402, card="4242"), ErrorInfo("declined", 402, {"card": "4242"})),
        (Declined("no"), ErrorInfo("Declined: no", 402)),
        (BadRequest("not so"), ErrorInfo("not so", 400)),
        (SystemExit(3), ErrorInfo("SystemExit: 3", 500)),
    ],
)
async def test_x4_an_exception_becomes_an_error_that_keeps_its_code(
    wrap: Callable[[BaseException], Callable[..., Any]], problem: BaseException, expected: ErrorInfo
) -> None:
    assert await error(wrap(problem)) == expected


async def test_x4_a_stop_iteration_in_a_plain_function_is_an_error_not_a_hang() -> None:
    def task() -> None:
        next(iter([]))

    assert "StopIteration" in (await error(task)).message


@pytest.mark.parametrize(
    ("code", "disposition", "cause"),
    [
        (429, Disposition.BACKPRESSURE, "backpressure"),
        (503, Disposition.BREAKER, "unavailable"),
        (529, Disposition.BREAKER, "overloaded"),
        (500, Disposition.ERROR, ""),
    ],
)
async def test_x4_the_code_of_an_error_decides_how_it_is_taken(code: int, disposition: Disposition, cause: str) -> None:
    answer = await run_task(raising(TaskError("no", code)), call())
    assert (answer.disposition, answer.cause) == (disposition, cause)


async def test_s6_x5_an_error_keeps_the_wish_for_a_retry_and_brings_changes_only_with_one() -> None:
    def task(flow: Flow) -> None:
        flow.set("a", 1)
        if flow.attempt < 2:
            flow.retry(3)
        raise ValueError("not yet")

    answer = await run_task(task, call())
    assert answer.error == ErrorInfo("ValueError: not yet", 500)
    assert answer.retry == Retry(3)
    assert answer.changes == {"a": Raw(b"1")}
    last = await run_task(task, call(attempt=2))
    assert (last.error, last.retry, last.changes) == (ErrorInfo("ValueError: not yet", 500), None, {})


@pytest.mark.parametrize("delay", [1e300, 10**400, timedelta.max, 2**63])
def test_a_delay_beyond_all_bounds_is_cut_and_not_refused(delay: Any) -> None:
    """X5, X6: it fits the wire as well."""
    flow = Flow(call())
    flow.sleep(delay)
    flow.retry(initial_delay=delay, max_delay=delay, give_up_after=delay, multiplier=10**400)
    answer = flow.answer()
    assert answer.retry is not None
    assert math.isfinite(answer.retry.multiplier)
    asked = [answer.sleep_ms, answer.retry.initial_delay_ms, answer.retry.max_delay_ms, answer.retry.give_up_after_ms]
    assert asked == [MAX_DELAY_MS // 1000 * 1000] * 4
    decoded = decode_reply("t", None, encode_answer(answer)[0])
    assert (decoded.error, decoded.retry, decoded.sleep_ms) == (None, answer.retry, answer.sleep_ms)


@pytest.mark.parametrize(
    ("ask", "retry"),
    [
        (lambda flow: flow.retry(), Retry(None, 100, 2.0, 60_000, None)),
        (lambda flow: flow.retry(initial_delay=0), Retry(None, 0, 2.0, 60_000, None)),
        (lambda flow: flow.retry(initial_delay=5, multiplier=1), Retry(None, 5000, 1, 60_000, None)),
        (lambda flow: flow.retry(max_delay=3600), Retry(None, 100, 2.0, 3_600_000, None)),
    ],
)
def test_x5_what_a_retry_leaves_out_has_a_default(ask: Callable[[Flow], None], retry: Retry) -> None:
    flow = Flow(call())
    ask(flow)
    assert flow.answer().retry == retry


def test_a_boolean_is_no_error_code() -> None:
    odd = ValueError("x")
    odd.code = True  # type: ignore[attr-defined]
    assert error_info(odd).code == 500


async def test_plain_functions_run_in_a_thread_and_coroutines_on_the_loop() -> None:
    here = threading.get_ident()

    async def on_loop() -> dict[str, bool]:
        return {"here": threading.get_ident() == here}

    def in_thread() -> dict[str, bool]:
        return {"here": threading.get_ident() == here}

    assert await changes(on_loop) == {"here": True}
    assert await changes(in_thread) == {"here": False}


async def test_cancelling_the_run_cancels_the_task_function_and_an_inner_cancellation_is_an_error() -> None:
    started = asyncio.Event()

    async def waits() -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(run_task(waits, call()))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    async def gives_up() -> None:
        raise asyncio.CancelledError

    assert "cancelled" in (await error(gives_up)).message
