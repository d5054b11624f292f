"""Request and publish nodes through the port `Services`, without NATS (N3, N4)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.services import ServiceCall, ServiceReply
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON
from tests.support.services import LocalServices


def one(node: dict[str, Any]) -> Graph:
    """A graph of one node."""
    return Graph.from_json(
        json.dumps(
            {
                "name": "w",
                "entryPoint": "n",
                "tasks": [{"name": "n", **node}],
                "transitions": [{"from": "n", "to": "END"}],
            }
        ).encode()
    )


async def test_a_host_gives_its_own_services(dsn: str) -> None:
    """N3, N4: any object with the two methods will do; the reply goes into the field of the node."""
    services = LocalServices(quote=lambda call: {"for": call.payload.decode(), "n": 2**60})
    async with open_engine(dsn, tasks=TaskProxy(), services=services) as engine:
        outcome = await engine.run(
            one({"request": {"subject": "quote", "payload": "=sku"}}), {"sku": "a1"}, timeout=SOON
        )
        assert (outcome.status, outcome.state["n"]) == (Status.COMPLETED, {"for": "a1", "n": 2**60})
        told = await engine.run(one({"publish": {"subject": "told", "stream": True}}), {"a": 1}, timeout=SOON)
        assert (told.status, told.state) == (Status.COMPLETED, {"a": 1})
    ((call, stream),) = services.published
    assert (call.subject, call.payload, stream) == ("told", b"", True)


async def test_an_engine_without_services_says_so(dsn: str) -> None:
    """N3, N4: an error of the step at once, not a step that waits for ever."""
    async with open_engine(dsn, tasks=TaskProxy()) as engine:
        for node in ({"request": {"subject": "quote"}}, {"publish": {"subject": "told"}}):
            outcome = await engine.run(one(node), timeout=SOON)
            assert outcome.status is Status.FAILED
            assert outcome.error is not None
            assert outcome.error.code == 501
            assert "opened without `services`" in outcome.error.message


async def test_a_port_that_raises_or_hangs_fails_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """N3: the engine ends what the port did not end."""
    monkeypatch.setattr("dwarf_nats.engine.execution.service_nodes.LATE_SECONDS", 0.0)

    async def hangs(_: ServiceCall) -> None:
        await asyncio.Event().wait()

    def breaks(_: ServiceCall) -> None:
        raise ValueError("odd")

    services = LocalServices(hangs=hangs, breaks=breaks, refuses=lambda _: ServiceReply(error=ErrorInfo("no", 402)))
    settings = EngineSettings(time_budget_ms=20)
    async with open_engine("sqlite://", tasks=TaskProxy(), services=services, settings=settings) as engine:
        for subject, code, words in (("hangs", 408, "time budget"), ("breaks", 500, "odd"), ("refuses", 402, "no")):
            outcome = await engine.run(one({"request": {"subject": subject}}), timeout=SOON)
            assert outcome.error is not None
            assert outcome.error.code == code
            assert words in outcome.error.message


async def test_the_message_id_stays_for_retries_and_changes_with_a_restart(dsn: str) -> None:
    """N3, X5, O13."""
    answers = iter([ServiceReply(error=ErrorInfo("later", 500)), 1, 2])
    services = LocalServices(quote=lambda _: next(answers))
    retry = {"maxAttempts": 2, "initialDelayMs": 0}
    async with open_engine(dsn, tasks=TaskProxy(), services=services) as engine:
        flow = await engine.create(one({"request": {"subject": "quote"}, "retry": retry}), start=True)
        assert (await engine.await_(flow, SOON)).state["n"] == 1
        await engine.restart(flow)
        assert (await engine.await_(flow, SOON)).state["n"] == 2
    first, second, third = services.requests
    assert (first.attempt, second.attempt, third.attempt) == (0, 1, 0)
    assert first.message_id == second.message_id != third.message_id


async def test_a_subject_that_the_host_refuses_is_a_400_with_the_place() -> None:
    """N3: where it stands in the graph."""

    class Picky(LocalServices):
        def refuses(self, subject: str) -> str:
            return "it is mine" if subject.startswith("mine.") else ""

    async with open_engine("sqlite://", tasks=TaskProxy(), services=Picky()) as engine:
        with pytest.raises(BadRequest, match=r"graph 'w', node 'n', request.subject: .*'mine.x': it is mine"):
            await engine.put_graph(one({"request": {"subject": "mine.x"}}))
        await engine.put_graph(one({"request": {"subject": "='mine.' + x"}}))
