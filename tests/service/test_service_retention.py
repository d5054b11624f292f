"""Retention rules as a caller sees them, over NATS, in the client and on the command line (M2)."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.sdk import Client, NotFound, RetentionRule
from tests.support.caller import Caller

RULE = {"name": "done", "status": "completed", "olderThanMs": 86_400_000, "keepTagged": {"legal": "hold"}}


async def test_rules_are_put_listed_tried_and_deleted(either: Caller, nats_server: Any) -> None:
    """M2."""
    assert await either.ok("retention.list") == {"rules": []}
    assert await either.ok("retention.put", **RULE) == {}
    (found,) = (await either.ok("retention.list"))["rules"]
    updated = found.pop("updatedAt")
    assert updated.endswith("Z")
    assert found == {**RULE, "removed": 0}
    assert await either.ok("retention.preview", name="done") == {"flows": 0}
    created = await either.ok("flow.create_task", task="a")
    await either.ok("flow.cancel", **created)
    tried = await either.ok("retention.preview", name="x", olderThanMs=1, status="cancelled")
    assert tried["flows"] in (0, 1)  # the flow may not be a millisecond old
    async with Client(nats_server.url, prefix=either.prefix) as client:
        rule = RetentionRule(name="gone", workflow="order", older_than_ms=5000, keep_tagged={"n": 7, "x": True})
        await client.put_retention(rule)
        listed = await client.list_retention()
        assert [one.rule.name for one in listed] == ["done", "gone"]
        assert (listed[1].rule, listed[1].removed, listed[1].last_run) == (rule, 0, None)
        assert (await client.preview_retention("gone")).flows == 0
        assert (await client.preview_retention(rule)).oldest is None
        await client.delete_retention("gone")
        with pytest.raises(NotFound, match="gone"):
            await client.delete_retention("gone")
    assert await either.ok("retention.delete", name="done") == {}


@pytest.mark.parametrize(
    ("operation", "fields", "why"),
    [
        ("retention.put", {"name": "a", "olderThanMs": 5, "status": "running"}, "use completed, failed or cancelled"),
        ("retention.put", {"name": "a"}, "`olderThanMs`"),
        ("retention.put", {"name": "a.b", "olderThanMs": 5}, "has a dot"),
        ("retention.put", {"name": "a", "olderThanMs": 0}, "olderThanMs"),
        ("retention.put", {"name": "a", "olderThanMs": 5, "keepTagged": {"a.b": 1}}, "`keepTagged` has the name"),
        ("retention.put", {"name": "a", "olderThanMs": 5, "keepTaged": {}}, "keepTagged"),
        ("retention.preview", {"name": "nobody"}, "no retention 'nobody'"),
        ("retention.delete", {"name": "nobody"}, "no retention 'nobody'"),
    ],
)
async def test_mistakes_are_refused_with_a_remedy(
    caller: Caller, operation: str, fields: dict[str, Any], why: str
) -> None:
    """M2."""
    error = await caller.refused(operation, **fields)
    assert error["code"] == (404 if "nobody" in why else 400)
    assert why in error["message"]
