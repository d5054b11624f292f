"""Sub-workflows far deeper than a stack, over the wire (P4): no depth is a 500."""

from __future__ import annotations

from typing import Any

from tests.support.caller import Caller, line

DEPTH = 600


async def test_no_depth_is_a_500(either: Caller) -> None:
    """O7, O8, O14; wire: histories; histories are nested so far that any parser reads them, and read on by the child's key."""
    caller = either

    def call(asked: dict[str, Any]) -> dict[str, Any]:
        left = asked["state"]["left"]
        if "subgraph" in asked or "resumed" in asked:
            return {"changes": {"end": left}}
        return {"subgraph": {"workflow": "deep", "input": {"left": left - 1}}} if left else {"interrupt": "?"}

    await caller.plays("call", call)
    await caller.ok("graph.put", **line("deep", "call"))
    paused = await caller.ok("flow.run", workflow="deep", state={"left": DEPTH})
    assert (paused["status"], paused["interruptPayload"]) == ("interrupted", "?")
    key: str | None = paused["flowKey"]
    seen, pages = 0, 0
    while key is not None:
        (step,) = (await caller.ok("flow.history", flowKey=key))["steps"]
        pages += 1
        levels = 1
        while "subHistory" in step:
            (step,) = step["subHistory"]
            levels += 1
        assert levels < 30  # twice as many levels of JSON: some parsers take no more than 64
        seen += levels
        key = step["subFlowKey"] if step.get("truncated") else None
    assert (seen, step["status"]) == (DEPTH + 1, "interrupted")
    assert pages > 20
    drawn = await caller.ok("flow.mermaid", flowKey=paused["flowKey"])
    assert f"{DEPTH + 1 - 6:,} steps" in drawn["mermaid"]
    flow = {"flowKey": paused["flowKey"]}
    await caller.ok("flow.resume", **flow)
    assert (await caller.ok("flow.await", **flow))["state"] == {"left": DEPTH, "end": DEPTH}
    copy = await caller.ok("flow.fork", stepKey=step["stepKey"])
    await caller.ok("flow.await", **copy)
    await caller.ok("flow.cancel", **copy)
    assert (await caller.ok("flow.snapshot", **copy))["status"] == "cancelled"
    await caller.ok("flow.delete", **copy)
