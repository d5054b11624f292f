"""The queue of ready steps on both databases: reading it, promoting scheduled steps, claims by shares (C1-C5)."""

from __future__ import annotations

import asyncio

import pytest

from dwarf_nats.clock import ManualClock
from dwarf_nats.rules.scheduling.values import PageRequest, Share
from dwarf_nats.rules.steps import NewFlow
from dwarf_nats.store.store import SqlStore
from tests.support.stores import BUDGET, in_flight, look, new_flow, next_due, one_claimed, returned, went_on

SECOND = 1_000_000


def at(priority: int, key: str = "", url: str = "a", **more: object) -> NewFlow:
    return new_flow(priority=priority, fairness_key=key, url=url, **more)


async def lanes(
    store: SqlStore, request: PageRequest | None = None, blocked_tasks: tuple[str, ...] = ()
) -> list[tuple[int, str, str]]:
    page = await store.steps.peek(request or PageRequest(), blocked_tasks)
    return [head[:3] for head in page.heads]


async def taken(store: SqlStore, limit: int, shares: list[Share], **task_budgets: int) -> list[int]:
    return [row.step_id for row in await store.steps.claim(limit, BUDGET, shares, task_budgets)]


# -- reading


async def test_bands_and_keys_are_read_in_order_each_by_its_oldest_step(store: SqlStore) -> None:
    flows = [
        at(2, "b"),
        at(1, "c", fairness_weight=5.0),
        at(1, "c", fairness_weight=7.0),
        at(1),
        at(2, "a"),
        at(2, "b"),
    ]
    for new in flows:  # one after the other, so that their times differ
        await store.steps.create([new], BUDGET)
    page = await store.steps.peek(PageRequest())
    assert [head[:2] for head in page.heads] == [(1, ""), (1, "c"), (2, "a"), (2, "b")]
    assert (page.best, page.full, page.next_due_at) == (1, False, None)
    assert page.heads[1].weight == 5.0
    ((due, now),) = await look(store, "select not_before, {now} from dwarf_steps where step_id = $1", flows[1].step_id)
    assert page.heads[1].due_at == due
    assert due <= page.now <= now


async def test_a_page_goes_on_where_the_last_one_ended(store: SqlStore) -> None:
    await store.steps.create([at(band, key) for band in (1, 2) for key in "abcd"], BUDGET)
    page = await store.steps.peek(PageRequest(limit=3))
    assert ([head[1] for head in page.heads], page.full) == (["a", "b", "c"], True)
    page = await store.steps.peek(PageRequest(band=1, fairness_key="c", limit=3))
    assert ([head[:2] for head in page.heads], page.full) == ([(1, "c"), (1, "d"), (2, "a")], True)
    page = await store.steps.peek(PageRequest(floor=1, band=2, fairness_key="d", limit=3))
    assert ([head[:2] for head in page.heads], page.full, page.best) == ([(2, "d")], False, 2)


async def test_a_page_begins_with_a_better_band_that_has_come_up(store: SqlStore) -> None:
    await store.steps.create([at(5, key) for key in "abc"] + [at(4, "x")], BUDGET)
    assert (await lanes(store, PageRequest(band=5, fairness_key="b")))[0] == (4, "x", "a")


async def test_a_band_whose_keys_were_all_read_is_followed_by_the_next(store: SqlStore) -> None:
    await store.steps.create([at(1, "a"), at(2, "b")], BUDGET)
    page = await store.steps.peek(PageRequest(band=1, fairness_key="z"))
    assert (page.best, [head[:2] for head in page.heads]) == (1, [(2, "b")])


async def test_an_empty_queue_says_so(store: SqlStore) -> None:
    page = await store.steps.peek(PageRequest())
    assert (page.best, list(page.heads), page.full, page.next_due_at) == (None, [], False, None)
    page = await store.steps.peek(PageRequest(), ("shut",))
    assert (page.best, list(page.heads), page.full, page.next_due_at) == (None, [], False, None)


async def test_tasks_that_are_shut_are_read_past_and_not_counted(store: SqlStore) -> None:
    """C3."""
    flows = [at(1, key, url) for key in ("k1", "k2", "k3") for url in ("free", "shut", "tight")]
    await store.steps.create([*flows, at(2, "z", "free")], BUDGET)
    found = await lanes(store, PageRequest(limit=3), ("shut", "tight"))
    assert [head for head in found if head[2] == "free"] == [
        (1, "k1", "free"),
        (1, "k2", "free"),
        (1, "k3", "free"),
    ]
    assert (2, "z", "free") not in found
    following = await lanes(store, PageRequest(0, 1, *found[-1][1:], limit=3), ("shut", "tight"))
    assert following[0] == found[-1]
    assert following[-1] == (2, "z", "free")


async def test_a_step_that_is_parked_created_or_running_is_not_in_the_queue(store: SqlStore) -> None:
    await store.steps.create([parked := at(1), at(1, "c", start=False), at(1, "r", eager=True), at(1, "p")], BUDGET)
    await look(store, "update dwarf_steps set parked = 2 where step_id = $1", parked.step_id)
    assert await lanes(store) == [(1, "p", "a")]
    assert await lanes(store, blocked_tasks=("x",)) == [(1, "p", "a")]


# -- sleeping and waking (C5)


async def test_a_scheduled_step_is_in_the_queue_only_once_it_was_promoted(timed: SqlStore, manual: ManualClock) -> None:
    await timed.steps.create(
        [new_flow(start_at=manual.now() + 7 * SECOND), new_flow(start_at=manual.now() + 3 * SECOND)], BUDGET
    )
    page = await timed.steps.peek(PageRequest())
    assert (page.best, page.next_due_at) == (None, manual.now() + 3 * SECOND)
    assert await timed.steps.promote_due(10) == 0
    manual.advance(3)
    assert await lanes(timed) == []
    assert await timed.steps.promote_due(10) == 1
    assert await lanes(timed) == [(100, "", "a")]
    assert (await timed.steps.peek(PageRequest())).next_due_at == manual.now() + 4 * SECOND
    manual.advance(100)
    assert await timed.steps.promote_due(10) == 1
    assert (await timed.steps.peek(PageRequest())).next_due_at is None


async def test_scheduled_steps_are_promoted_in_groups_those_due_first_before_the_others(store: SqlStore) -> None:
    flows = [new_flow(start_at=2**52 - n) for n in range(5)]
    await store.steps.create(flows, BUDGET)
    await look(store, "update dwarf_steps set not_before = not_before - $1, updated_at = 0", 2**52 - 100)
    assert await store.steps.promote_due(3) == 3
    rows = await store.steps.claim(10, BUDGET, [Share(100, "", 10)])
    assert [row.step_id for row in rows] == [new.step_id for new in reversed(flows[2:])]
    assert await store.steps.promote_due(3) == 2


async def test_a_retry_a_sleep_and_a_start_keep_their_step_scheduled(timed: SqlStore, manual: ManualClock) -> None:
    """X5, X6, O2: whoever writes a pending step that is not due yet."""
    retried, slept = await one_claimed(timed), await one_claimed(timed)
    settlement = returned(retried)
    settlement.delay_us = 5 * SECOND
    await timed.steps.settle([settlement, went_on(slept, delay_us=6 * SECOND)], BUDGET)
    await timed.steps.create([created := new_flow(start=False, start_at=manual.now() + 4 * SECOND)], BUDGET)
    await timed.control.start(created.flow.flow_id, "")
    seen = []
    for _ in range(3):
        assert await lanes(timed) == []
        due = await next_due(timed)
        assert due is not None
        manual.advance(due / SECOND)
        seen.append(due)
        assert await timed.steps.promote_due(10) == 1
        assert len(await timed.steps.claim(10, BUDGET, [Share(100, "", 10)])) == 1
    assert seen == [4 * SECOND, SECOND, SECOND]


async def test_a_created_flow_whose_time_has_passed_is_ready_when_started(timed: SqlStore, manual: ManualClock) -> None:
    await timed.steps.create([created := new_flow(start=False, start_at=manual.now() + SECOND)], BUDGET)
    manual.advance(5)
    await timed.control.start(created.flow.flow_id, "")
    assert await lanes(timed) == [(100, "", "a")]


async def test_a_parked_step_whose_time_comes_is_woken_once_it_is_released(
    timed: SqlStore, manual: ManualClock
) -> None:
    """V4: a breaker holds scheduled steps, too."""
    await timed.steps.create([new_flow(start_at=manual.now() + SECOND)], BUDGET)
    await look(timed, "update dwarf_steps set parked = 2")
    manual.advance(2)
    assert (await timed.steps.promote_due(10), (await timed.steps.peek(PageRequest())).next_due_at) == (0, None)
    await look(timed, "update dwarf_steps set parked = 0")
    assert await timed.steps.promote_due(10) == 1
    assert await lanes(timed) == [(100, "", "a")]


# -- claims by shares


async def test_shares_are_served_one_after_the_other_up_to_the_limit(store: SqlStore) -> None:
    """C1, C2."""
    await store.steps.create([at(2, "a") for _ in range(5)] + [at(1, "b") for _ in range(3)] + [at(1, "c")], BUDGET)
    rows = await store.steps.claim(6, BUDGET, [Share(1, "b", 2), Share(1, "c", 9), Share(2, "a", 9)])
    assert sorted((row.priority, row.fairness_key) for row in rows) == [(1, "b")] * 2 + [(1, "c")] + [(2, "a")] * 3
    assert [row.priority for row in rows] == sorted(row.priority for row in rows)
    assert await lanes(store) == [(1, "b", "a"), (2, "a", "a")]


async def test_within_a_key_what_has_been_due_longest_comes_first(store: SqlStore) -> None:
    """C2: whatever its task, and whatever order it was written in."""
    flows = [at(1, "k", f"t{n % 3}") for n in range(9)]
    await store.steps.create(flows, BUDGET)
    for place, new in enumerate(flows):
        await look(store, "update dwarf_steps set not_before = $1 where step_id = $2", (place * 7) % 9, new.step_id)
    oldest = [new.step_id for _, new in sorted(((place * 7) % 9, new) for place, new in enumerate(flows))]
    assert await taken(store, 4, [Share(1, "k", 4)]) == oldest[:4]
    assert await taken(store, 4, [Share(1, "k", 4)], t9=1) == oldest[4:8]


async def test_a_share_may_skip_what_the_one_before_took(store: SqlStore) -> None:
    """What keys take of what others leave comes after everybody's own."""
    shares = [Share(1, "a", 2), Share(1, "b", 2), Share(1, "a", 4, skip=2), Share(1, "b", 4, skip=2)]
    for task_budgets in ({}, {"elsewhere": 1}):
        await store.steps.create([at(1, "a") for _ in range(6)] + [at(1, "b")], BUDGET)
        rows = await store.steps.claim(4, BUDGET, shares, task_budgets)
        assert sorted(row.fairness_key for row in rows) == ["a", "a", "a", "b"]
        rest = await store.steps.claim(10, BUDGET, [Share(1, "a", 10)])
        assert len({row.step_id for row in [*rows, *rest]}) == 7


async def test_tasks_that_are_shut_are_passed_over(store: SqlStore) -> None:
    """C3: the others of their key are not held up."""
    blocked_tasks, free = [at(1, "k", "shut") for _ in range(20)], [at(1, "k", "free") for _ in range(3)]
    await store.steps.create([*blocked_tasks, *free], BUDGET)
    assert await taken(store, 10, [Share(1, "k", 10)], shut=0) == [new.step_id for new in free]
    assert await taken(store, 10, [Share(1, "k", 10)], shut=0) == []
    assert len(await taken(store, 10, [Share(1, "k", 10)])) == 10


async def test_a_task_gives_no_more_than_its_allowance_over_all_keys(store: SqlStore) -> None:
    """C3."""
    flows = [at(1, key, url) for key in "abc" for url in ("tight", "free") for _ in range(5)]
    await store.steps.create(flows, BUDGET)
    rows = await store.steps.claim(30, BUDGET, [Share(1, key, 10) for key in "abc"], {"tight": 7})
    urls = [row.url for row in rows]
    assert (urls.count("tight"), urls.count("free")) == (7, 15)


async def test_a_step_that_is_not_due_is_not_claimed_even_if_it_is_in_the_queue(
    timed: SqlStore, manual: ManualClock
) -> None:
    await timed.steps.create([new_flow()], BUDGET)
    await look(timed, "update dwarf_steps set not_before = not_before + 5, updated_at = updated_at + 5")
    assert await timed.steps.claim(5, BUDGET, [Share(100, "", 5)]) == []
    assert await timed.steps.claim(5, BUDGET, [Share(100, "", 5)], {"x": 0}) == []
    manual.advance(1)
    assert len(await timed.steps.claim(5, BUDGET, [Share(100, "", 5)])) == 1


async def test_claims_by_shares_carry_the_lease(store: SqlStore) -> None:
    """X1: with and without allowances."""
    await store.steps.create([at(1), at(1)], BUDGET)
    for task_budgets in ({}, {"x": 0}):
        (row,) = await store.steps.claim(1, BUDGET, [Share(1, "", 1)], task_budgets)
        assert in_flight(row).lease_seq == 1
        assert await look(
            store, "select status, lease_seq, claimed_by from dwarf_steps where step_id = $1", row.step_id
        ) == [("running", 1, store.replicas.replica_id)]


@pytest.mark.slow
@pytest.mark.parametrize("gated", [False, True])
async def test_two_replicas_claim_by_shares_and_none_twice(pg_stores: tuple[SqlStore, SqlStore], gated: bool) -> None:
    """X1."""
    flows = [at(1, f"k{n % 5}", f"t{n % 3}") for n in range(400)]
    await pg_stores[0].steps.create(flows, BUDGET)
    shares = [Share(1, f"k{n}", 4) for n in range(5)]
    got: list[int] = []

    async def claim(store: SqlStore) -> None:
        while (await store.steps.peek(PageRequest())).best is not None:
            got.extend(await taken(store, 12, shares, **({"x": 0} if gated else {})))

    await asyncio.gather(*map(claim, pg_stores))
    assert sorted(got) == sorted(new.step_id for new in flows)
