"""Nodes without a service and policies of nodes, over NATS (N1, N2, N7, N8, L1-L3)."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.caller import Caller

CHILD = {
    "name": "acme.child",
    "entryPoint": "double",
    "tasks": [{"name": "double", "set": {"n": "=n * 2"}}],
    "transitions": [{"from": "double", "to": "END"}],
}
PARENT = {
    "name": "acme.parent",
    "entryPoint": "begin",
    "tasks": [
        {"name": "begin", "set": {"n": 21, "draft": None}},
        {"name": "run", "workflow": "acme.child", "input": {"n": "=n"}, "into": "result"},
        {"name": "bad", "set": {"x": "=nowhere.field"}, "retry": {"maxAttempts": 3, "initialDelayMs": 0}},
        {"name": "nap", "sleep": {"ms": "=delay"}},
    ],
    "transitions": [
        {"from": "begin", "to": "run"},
        {"from": "run", "to": "bad"},
        {"from": "bad", "to": "END"},
        {"from": "bad", "to": "nap", "onError": True},
        {"from": "nap", "to": "END"},
    ],
}


async def test_a_workflow_without_a_task_is_carried_out_and_shown(either: Caller) -> None:
    """What comes over the wire conforms to the schemas; a sleeping step says when it is due."""
    await either.ok("graph.put", **CHILD)
    flow = await either.ok("flow.create", graph=PARENT, state={"delay": 3_600_000, "draft": 1}, start=True)

    async def asleep() -> list[dict[str, Any]]:
        async with asyncio.timeout(30):
            while True:
                steps: list[dict[str, Any]] = (await either.ok("flow.history", **flow))["steps"]
                if steps[-1]["task"] == "nap" and steps[-1]["status"] == "pending":
                    return steps
                await asyncio.sleep(0)

    steps = await asleep()
    assert [step["kind"] for step in steps] == ["set", "workflow", "set", "sleep"]
    assert [step["kind"] for step in steps[1]["subHistory"]] == ["set"]
    assert [step["attempt"] for step in steps] == [0, 0, 2, 0]
    assert ["dueAt" in step for step in steps] == [False, False, False, True]
    (summary,) = (await either.ok("flow.list", workflow="acme.parent"))["flows"]
    assert (summary["task"], summary["dueAt"]) == ("nap", steps[-1]["dueAt"])
    told = await either.ok("step.get", stepKey=steps[-1]["stepKey"])
    error = told["state"]["onErr"]
    assert (error["code"], error["task"], error["message"].endswith("(tried 3 times)")) == (400, "bad", True)
    assert (told["state"]["n"], told["state"]["result"], "draft" in told["state"]) == (21, {"n": 42}, False)
    await either.ok("flow.cancel", **flow)
