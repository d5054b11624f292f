"""Bulk operations as a caller sees them, over NATS and on both databases (M1)."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.errors import Unavailable
from dwarf_nats.sdk import BulkAction, Client, Query
from tests.support.caller import Caller

BAD: list[tuple[dict[str, Any], str]] = [
    ({"query": {}}, "the query is empty: name at least one filter"),
    ({}, "`query`"),
    ({"action": "vanish", "query": {"status": "failed"}}, "action"),
    ({"query": {"status": "failed", "limit": 3}}, "limit"),
    ({"query": {"statsu": "failed"}}, "status"),
    ({"query": {"status": "failed"}, "data": 1}, "`data` belongs to the action resume"),
    ({"query": {"status": "failed"}, "tags": {"a": 1}}, "`tags` belongs to the action tag"),
    ({"action": "tag", "query": {"status": "failed"}, "tags": {"a.b": 1}}, "field `tags` has the name 'a.b'"),
    ({"query": {"status": "failed"}, "cursor": "x"}, "malformed cursor"),
    ({"query": {"status": "failed"}, "limit": 1001}, "limit"),
    ({"query": {"threadKey": "1-9-a1B2c3D4e5F6g7H8"}}, "no thread"),
]


async def created(caller: Caller, count: int) -> list[str]:
    return [
        (await caller.ok("flow.create_task", task="work", state={"n": number}, options={"tags": {"batch": 7}}))[
            "flowKey"
        ]
        for number in range(count)
    ]


async def test_flows_are_cancelled_by_query(either: Caller) -> None:
    """M1: a dry run, pages by cursor, and what was refused, with the documented fields and no others."""
    keys = await created(either, 5)
    query = {"tags": {"batch": 7}}
    await either.ok("flow.cancel", flowKey=keys[0])
    dry = await either.ok("flow.bulk", action="cancel", query=query, dryRun=True)
    assert dry["matched"] == 5
    assert dry["sample"][0] == {"flowId": keys[4].rpartition("-")[0], "workflow": "work", "status": "created"}
    assert set(dry) == {"matched", "sample"}
    page = await either.ok("flow.bulk", action="cancel", query=query, reason="recalled", limit=3)
    assert (page["matched"], page["done"], page["failed"]) == (3, 3, [])
    last = await either.ok("flow.bulk", action="cancel", query=query, reason="recalled", limit=3, cursor=page["cursor"])
    assert (last["matched"], last["done"]) == (2, 1)
    (failure,) = last["failed"]
    assert (failure["flowId"], failure["code"]) == (keys[0].rpartition("-")[0], 409)
    assert "cursor" not in last
    outcome = await either.ok("flow.snapshot", flowKey=keys[1])
    assert (outcome["status"], outcome["cancelReason"]) == ("cancelled", "recalled")


@pytest.mark.parametrize(("fields", "why"), BAD)
async def test_a_bad_bulk_operation_is_refused_with_a_remedy(caller: Caller, fields: dict[str, Any], why: str) -> None:
    """M1."""
    error = await caller.refused("flow.bulk", **{"action": "cancel", **fields})
    assert error["code"] == (404 if "thread" in why else 400)
    assert why in error["message"]


async def test_the_client_goes_through_all_pages(either: Caller, nats_server: Any) -> None:
    """M1: `bulk` begins with a cursor, so each page may be asked for again; a resume is not."""
    await created(either, 4)
    query = Query(tags={"batch": 7})
    async with Client(nats_server.url, prefix=either.prefix) as client:
        (dry,) = [page async for page in client.bulk("delete", query, dry_run=True)]
        assert (dry.matched, len(dry.sample or [])) == (4, 4)
        pages = [page async for page in client.bulk(BulkAction.TAG, query, tags={"seen": True}, limit=3)]
        assert [(page.matched, page.done) for page in pages] == [(3, 3), (1, 1)]
        pages = [page async for page in client.bulk("delete", query, limit=2)]
        assert sum(page.done for page in pages) == 4
        sent: list[tuple[Any, bool]] = []
        once = client._request

        async def noted(operation: str, message: Any, **how: Any) -> bytes:
            sent.append((message, how["repeatable"]))
            if len(sent) == 2:
                raise Unavailable("the reply was lost")
            return await once(operation, message, **how)

        client._request = noted  # type: ignore[method-assign]
        for action, again in (("cancel", True), ("resume", False)):
            sent.clear()
            with pytest.raises(Unavailable):
                [page async for page in client.bulk(action, query)]
            assert [repeatable for _, repeatable in sent] == [True, again]
            assert sent[1][0].cursor
