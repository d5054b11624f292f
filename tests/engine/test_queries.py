"""Queries and options: the values they may have and the flows they find, on both databases (O1, O9, O15)."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.errors import BadRequest, NotFound, TimedOut
from dwarf_nats.store.search import pattern
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.task_error import TaskError
from tests.support.engines import SOON, line

FOUND = [
    ("MÜLLER", "müller"), ("müller", "MÜLLER"), ("ЖУРАВЛЬ", "журавль"), ("οδοσ", "ΟΔΟΣ"), ("ΟΔΟΣ", "οδος"),
    ("straße", "STRASSE"), ("STRASSE", "Straße"), ("\N{KELVIN SIGN}", "k"), ("ffi", "o\ufb03ce"), ("100%", "at 100% now"),
    ("a_b", "A_B"), ("c:\\dir", "C:\\DIR"), ("[x]^-$.*+?(){}|", "so [X]^-$.*+?(){}| it is"), ("'; --", "'; --"),
    ("two\nlines", "TWO\nLINES"), ("\U0001f600", "a \U0001f600 b"), ("ß" * 256, "SS" * 256), ("***=a", "***=A"),
    ("(?i)", "(?I)"),
]  # fmt: skip
MISSED = [
    ("a_b", "axb"), ("100%", "1000"), (".", "x"), ("cafeteria", "cafétéria"), ("\\d", "1"), ("sssssss", "ßßß"),
    ("\\u0000", "\0"),
]  # fmt: skip


async def test_o9_search_takes_upper_and_lower_case_alike_in_every_script(engine: Engine, proxy: TaskProxy) -> None:
    """O9: on both databases the same, and what looks like a pattern is taken literally."""
    proxy.handle_graph(line("failing", "fail"))

    def fail(text: str) -> None:
        raise TaskError(text, 418)

    proxy.handle_task("fail", fail)
    for text in {shown for _, shown in (*FOUND, *MISSED)}:
        assert (await engine.run("failing", {"text": text}, timeout=SOON)).status is Status.FAILED
    for wanted, shown in (*FOUND, *MISSED):
        assert bool(re.search(pattern(wanted), shown)) is ((wanted, shown) in FOUND), (wanted, shown)
        found, _ = await engine.list(Query(search=wanted, limit=1000))
        messages = {flow.error.message for flow in found if flow.error is not None}
        assert (shown in messages) is ((wanted, shown) in FOUND), (wanted, shown)


async def test_o9_search_looks_at_messages_not_at_how_they_are_stored(engine: Engine, proxy: TaskProxy) -> None:
    proxy.handle_graph(line("failing", "fail"))

    def fail() -> None:
        raise TaskError('said "no"\nto C:\\u0000\\', 418, detail="hidden")

    proxy.handle_task("fail", fail)
    key = (await engine.run("failing", {}, timeout=SOON)).flow_key
    for shown in ('said "no"', 'no"\nto', "c:\\u00"):
        assert [flow.flow_key for flow in (await engine.list(Query(search=shown)))[0]] == [key], shown
    for stored in ("message", "418", "hidden", '\\"no', "\\n", "{"):
        assert await engine.list(Query(search=stored)) == ([], ""), stored


LONG = "x" * 100_000
EMPTY = ("workflow", "thread", "task", "search")


async def test_o9_texts_of_a_query_that_make_no_sense_are_refused(engine: Engine) -> None:
    """O9: too long, NUL, lone surrogates: a 400 that names the field, on either database; an empty text is not "all"."""
    for name in ("workflow", "task", "fairness_key", "search"):
        for bad in (LONG, "\0", "a\0b", "\ud800"):
            for ask in (engine.list, engine.purge):
                with pytest.raises(BadRequest, match="must"):
                    await ask(Query(**{"status": Status.COMPLETED, name: bad}))
    for name in EMPTY:
        for ask in (engine.list, engine.purge):
            with pytest.raises(BadRequest, match="is empty: leave it out"):
                await ask(Query(**{"status": Status.COMPLETED, name: ""}))
    with pytest.raises(BadRequest, match="search must be at most 256 characters, got 257"):
        await engine.list(Query(search="x" * 257))
    for number in (10**400, -(10**400)):
        for name in ("priority", "older_than_ms", "newer_than_ms", "shard", "limit"):
            with pytest.raises(BadRequest):
                await engine.list(Query(**{name: number}))
    for cursor in (LONG, "\0", "ü", "9" * 5000):
        with pytest.raises(BadRequest, match="malformed cursor"):
            await engine.list(Query(), cursor)


async def test_o1_options_that_are_empty_are_refused(engine: Engine) -> None:
    """O1: an unset variable of the caller must not mean "no key"."""
    for name in ("idempotency_key", "notify", "thread"):
        with pytest.raises(BadRequest, match="is empty: leave it out"):
            await engine.create("line", {}, FlowOptions(**{name: ""}))
    assert await engine.list() == ([], "")


async def test_o9_purge_keeps_to_its_limit_and_counts_root_flows(engine: Engine) -> None:
    for _ in range(7):
        await engine.create("single")
    query = {"status": Status.CREATED}
    with pytest.raises(BadRequest, match="limit must be between 1 and 10000, got 0"):
        await engine.purge(Query(limit=0, **query))
    with pytest.raises(BadRequest, match="limit must be between 1 and 10000, got 10001"):
        await engine.purge(Query(limit=10_001, **query))
    oldest = (await engine.list())[0][-2:]
    assert await engine.purge(Query(limit=2, **query)) == 2
    left = {flow.flow_key for flow in (await engine.list())[0]}
    assert len(left) == 5
    assert not left & {flow.flow_key for flow in oldest}
    assert await engine.purge(Query(limit=10_000, **query)) == 5
    assert await engine.purge(Query(**query)) == 0


async def test_o15_a_thread_key_is_good_for_as_long_as_one_flow_of_the_thread_exists(engine: Engine) -> None:
    first = (await engine.run("line", {"n": 1}, timeout=SOON)).flow_key
    second = await engine.continue_(first, {"n": 5}, start=True)
    await engine.await_(second, SOON)
    await engine.delete(first)
    ((shown,), _) = await engine.list()
    assert (shown.flow_key, shown.thread_key) == (second, first)
    third = await engine.continue_(shown.thread_key, {"n": 7}, start=True)
    await engine.await_(third, SOON)
    joined = await engine.create("single", {"n": 1}, FlowOptions(thread=shown.thread_key))
    for key in (first, second, third, joined):
        found, _ = await engine.list(Query(thread=key))
        assert {flow.flow_key for flow in found} == {second, third, joined}
        assert {flow.thread_key for flow in found} == {first}
    with pytest.raises(NotFound, match="no flow"):
        await engine.snapshot(first)
    forged = first[:-1] + ("a" if first[-1] != "a" else "b")
    for ask in (engine.continue_(forged), engine.list(Query(thread=forged))):
        with pytest.raises(NotFound, match="no thread"):
            await ask
    for key in (second, third, joined):
        await engine.delete(key)
    with pytest.raises(NotFound, match="no thread"):
        await engine.continue_(first)


BAD_TIMES = [
    datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(-timedelta(hours=23, minutes=59))),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23, minutes=59))),
    datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=timezone(timedelta(seconds=1))),
]


async def test_o2_a_start_time_beyond_the_calendar_is_refused(engine: Engine) -> None:
    for at in BAD_TIMES:
        with pytest.raises(BadRequest, match="startAt must be within the years 1970 to 9999"):
            await engine.create("line", {}, FlowOptions(start_at=at))
    with pytest.raises(BadRequest, match="startAt needs a time zone"):
        await engine.create("line", {}, FlowOptions(start_at=datetime(2030, 1, 1)))
    for at in (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)):
        assert await engine.create("line", {}, FlowOptions(start_at=at), start=True)


async def test_o4_waits_of_every_length_are_waits(engine: Engine) -> None:
    """O4: a wait beyond what a clock can count is one without end; what is no length is a 400."""
    for timeout in (1e300, math.inf, 10**400):
        assert (await engine.run("line", {"n": 1}, timeout=timeout)).status is Status.COMPLETED
    waiting = await engine.create("line")
    for timeout in (math.nan, -1.0, -math.inf, -(10**400)):
        with pytest.raises(BadRequest, match="timeout must be at least 0"):
            await engine.await_(waiting, timeout)
    with pytest.raises(TimedOut):
        await engine.await_(waiting, 0)


@pytest.mark.parametrize("character", ["a", "ü", "漢", "😀", "\\", '"', "\n", "\0"])
def test_an_error_is_cut_to_bytes_of_json_and_never_within_a_character(character: str) -> None:
    """`max_error_bytes` bounds the JSON text, not the characters."""
    size = len(orjson.dumps(character)) - 2
    for most in range(100, 110):
        error = ErrorInfo(character * 60_000, 418, {"more": "x"}).within(most)
        assert error.message == character * (most // size) + "…"
        assert len(error.stored().encode()) <= most + 50
    short = ErrorInfo(character * 3, 418)
    assert short.within(100) is short
    assert ErrorInfo(character * 10, 418, {"more": "x" * 500}).within(100).message == character * 10
