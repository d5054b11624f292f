"""Parts that the operations of the engine share: checks, placement, requests, waiters."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dwarf_nats.engine.operations.checks import MAX_WAIT_SECONDS, checked_limit, start_time_us, wait_seconds
from dwarf_nats.engine.operations.new_flows import request_digest
from dwarf_nats.engine.placement import Placement
from dwarf_nats.engine.waiters import Waiters
from dwarf_nats.errors import BadRequest, NotFound, Unavailable
from dwarf_nats.workflow.keys import Key
from dwarf_nats.workflow.options import Query
from dwarf_nats.workflow.records import Outcome
from dwarf_nats.workflow.state import state_from
from dwarf_nats.workflow.status import Status

TOKEN = "a1B2c3D4e5F6g7H8"


def placement(shards: int, agreed: int) -> Placement:
    """The placement of a replica that has these shards, of a deployment that has agreed on so many."""

    def unknown_shard(number: int) -> Unavailable:
        return Unavailable(f"shard {number} is unknown here")

    deployment = SimpleNamespace(count=agreed, unknown_shard=unknown_shard)
    by_number = {number: SimpleNamespace(number=number) for number in range(1, shards + 1)}
    return Placement(cast("Any", by_number), cast("Any", deployment))


def test_a_key_leads_to_its_shard() -> None:
    shard, key = placement(2, 2).locate(f"2-42-{TOKEN}")
    assert (shard.number, key) == (2, Key(2, 42, TOKEN))


@pytest.mark.parametrize(
    ("shards", "agreed", "error"),
    [(2, 2, NotFound), (2, 3, Unavailable)],
    ids=["no replica has the shard", "this replica has not got the shard"],
)
def test_a_shard_that_is_not_here(shards: int, agreed: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="shard 3"):
        placement(shards, agreed).locate(f"3-42-{TOKEN}", "step")


def test_a_query_is_about_one_shard_or_all() -> None:
    here = placement(3, 3)
    assert [one.number for one in here.shards_of(Query())] == [1, 2, 3]
    assert [one.number for one in here.shards_of(Query(shard=2))] == [2]
    with pytest.raises(BadRequest, match="this deployment has 1, 2, 3"):
        here.shards_of(Query(shard=4))


def test_a_request_is_the_same_in_whatever_order_its_fields_are() -> None:
    one, other = state_from({"a": 1, "b": {"c": 2, "d": 3}}), state_from({"b": {"d": 3, "c": 2}, "a": 1})
    assert request_digest("order", one) == request_digest("order", other)
    assert len({request_digest("order", one), request_digest("orders", one), request_digest("order", {})}) == 3


@pytest.mark.parametrize(("timeout", "seconds"), [(None, None), (0, 0), (2.5, 2.5), (MAX_WAIT_SECONDS, None)])
def test_a_wait_of_a_century_has_no_end(timeout: float | None, seconds: float | None) -> None:
    assert wait_seconds(timeout) == seconds


@pytest.mark.parametrize("timeout", [-0.1, float("nan")])
def test_a_wait_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(BadRequest, match="at least 0 seconds"):
        wait_seconds(timeout)


def test_a_limit_has_a_default_and_bounds() -> None:
    assert (checked_limit(None, 100, 1_000), checked_limit(1_000, 100, 1_000)) == (100, 1_000)
    for limit in (0, 1_001):
        with pytest.raises(BadRequest, match=f"between 1 and 1000, got {limit}"):
            checked_limit(limit, 100, 1_000)


def test_a_start_time_is_in_microseconds_of_the_epoch_whatever_its_zone() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert start_time_us(None) is None
    assert start_time_us(noon) == 1_767_268_800_000_000
    assert start_time_us(noon.astimezone(timezone(timedelta(hours=5)))) == start_time_us(noon)


async def test_waiters_of_a_flow_are_woken_together_and_once() -> None:
    waiters = Waiters()
    first, second, other = waiters.add(1), waiters.add(1), waiters.add(2)
    outcome = Outcome("1-1-x", "order", Status.COMPLETED)
    waiters.wake(1, outcome)
    assert (await first, await second) == (outcome, outcome)
    assert (waiters.waited_for(), waiters.some.is_set(), other.done()) == ({2}, True, False)
    waiters.drop(2, other)
    assert (waiters.waited_for(), waiters.some.is_set()) == (set(), False)
    waiters.wake(2, outcome)  # nobody waits any more
    assert not other.done()


async def test_a_replica_that_stops_refuses_its_waiters() -> None:
    waiters = Waiters()
    waiting = asyncio.gather(waiters.add(1), waiters.add(2), return_exceptions=True)
    error = Unavailable("this replica is stopping")
    waiters.refuse(error)
    assert await waiting == [error, error]
    assert not waiters.some.is_set()
