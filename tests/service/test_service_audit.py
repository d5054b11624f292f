"""The audit trail over NATS, as operators use it (M3)."""

from __future__ import annotations

from typing import Any

from dwarf_nats.sdk import AuditQuery, Client
from tests.support.caller import Caller, line

ADA = {"Dwarf-Actor": "ada"}


async def test_what_was_done_to_a_flow_and_by_whom_m3(either: Caller) -> None:
    """Carried out or refused, by flow key or step key, and not lost when the flow is deleted."""
    caller = either
    await caller.ok("graph.put", ADA, **line("order", "reserve"))
    await caller.serves("reserve", {"error": {"message": "sold out", "code": 409}})
    key = (await caller.ok("flow.run", workflow="order"))["flowKey"]
    (step,) = (await caller.ok("flow.history", flowKey=key))["steps"]
    await caller.refused("flow.cancel", ADA, flowKey=key, reason="late")
    await caller.ok("flow.restart_from", stepKey=step["stepKey"], overrides={"secret": "x1y2z3"})
    await caller.ok("flow.await", flowKey=key)
    await caller.refused("flow.delete", {"Dwarf-Actor": "eve"}, flowKey=f"{key[:-16]}AAAAAAAAAAAAAAAA")
    await caller.ok("flow.delete", ADA, flowKey=key)
    flow_id = key[:-17]
    page = await caller.ok("audit.list", flowId=flow_id)
    shown = [(one["operation"], one["actor"], one["outcome"], one.get("reason")) for one in page["records"]]
    assert shown == [
        ("flow.delete", "ada", "ok", None),
        ("flow.delete", "eve", "refused", None),
        ("flow.restart_from", "", "ok", None),
        ("flow.cancel", "ada", "refused", "late"),
    ]
    assert page["records"][3]["error"]["code"] == 409
    everything = await caller.ok("audit.list", limit=1000)
    assert [one["operation"] for one in everything["records"]][-1] == "graph.put"
    assert key[-16:] not in str(everything)
    assert "x1y2z3" not in str(everything)

    await caller.refused("audit.list", limit=0)
    await caller.refused("audit.list", cursor="?")
    await caller.refused("audit.list", flowId="x")
    async with Client(nc=caller.client, prefix=caller.prefix) as client:
        found: list[Any] = []
        cursor = ""
        while True:
            records, cursor = await client.list_audit(AuditQuery(actor="ada", limit=2), cursor)
            found += records
            if not cursor:
                break
    assert [one.operation for one in found] == ["flow.delete", "flow.cancel", "graph.put"]
    assert found[-1].name == "order"
    assert found[-1].flow_id == ""


async def test_each_flow_of_a_bulk_operation_has_a_record_beside_that_of_the_page_m3(either: Caller) -> None:
    keys = [(await either.ok("flow.create_task", task="work"))["flowKey"] for _ in range(3)]
    await either.ok("flow.cancel", flowKey=keys[0])
    query = {"workflow": "work"}
    await either.ok("flow.bulk", action="cancel", query=query, dryRun=True)
    await either.ok("flow.bulk", ADA, action="cancel", query=query, reason="recalled")
    for number, key in enumerate(keys):
        newest = (await either.ok("audit.list", flowId=key[:-17], limit=1))["records"][0]
        assert (newest["operation"], newest["actor"], newest["reason"]) == ("flow.bulk", "ada", "recalled")
        assert newest["details"] == {"action": "cancel"}
        assert newest["outcome"] == ("ok" if number else "refused")
    records = (await either.ok("audit.list", operation="flow.bulk"))["records"]
    (page,) = [one for one in records if "flowId" not in one]
    assert page["details"] == {
        "action": "cancel",
        "query": {"workflow": "work"},
        "matched": 3,
        "done": 2,
        "failed": 1,
    }
    assert len(records) == 4, "a dry run leaves none"
