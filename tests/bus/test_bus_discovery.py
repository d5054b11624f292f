"""Discovery replies by themselves, without a server (wire: section 1)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from dwarf_nats.bus.connection import Connection
from dwarf_nats.bus.discovery import MAX_LISTED_TASKS, Discovery
from dwarf_nats.bus.endpoints import endpoints
from dwarf_nats.bus.engine_api import EngineApi
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.workflow.records import TaskHealth

Handler = Callable[[bytes, bytes, bytes, bytes | None], None]


class Wire:
    """In place of a connection: subscriptions that a test calls, and what is sent."""

    def __init__(self) -> None:
        self.max_payload = 1_000_000
        self.handlers: dict[str, Handler] = {}
        self.sent: list[tuple[str, dict[str, Any]]] = []

    async def subscribe_raw(self, subject: str, handler: Handler) -> str:
        self.handlers[subject] = handler
        return subject

    def fits(self, block: bytes, body: bytes) -> bool:
        return len(block) + len(body) <= self.max_payload

    def send(self, subject: str, _reply: str, _block: bytes, body: bytes) -> None:
        self.sent.append((subject, json.loads(body)))

    def ask(self, subject: str) -> dict[str, Any]:
        before = len(self.sent)
        self.handlers[subject](subject.encode(), b"_INBOX.a", b"", None)
        return self.sent[-1][1] if len(self.sent) > before else {}


class Slowed:
    """In place of an engine: many tasks with a lowered rate."""

    def task_health(self) -> list[TaskHealth]:
        return [TaskHealth(url=f"t{number}", rate=1.0) for number in range(MAX_LISTED_TASKS + 1)]


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def discovery(wire: Wire) -> Discovery:
    subjects = Subjects("shop")
    made = Discovery(
        cast("Connection", wire),
        cast("EngineApi", Slowed()),
        subjects,
        service_id="r1",
        endpoints=endpoints(subjects),
    )
    await made.start()
    return made


async def test_each_verb_is_answered_to_all_to_the_service_and_to_the_replica(discovery: Discovery, wire: Wire) -> None:
    assert sorted(wire.handlers) == sorted(discovery.subscriptions)
    for verb in ("PING", "INFO", "STATS"):
        for tail in ("", ".dwarf", ".dwarf.r1"):
            reply = wire.ask(f"$SRV.{verb}{tail}")
            assert (reply["id"], reply["metadata"]) == ("r1", {"prefix": "shop"})


async def test_stats_list_no_more_tasks_than_fit(discovery: Discovery, wire: Wire) -> None:
    (listed,) = [one["data"]["tasks"] for one in discovery.stats()["endpoints"] if "data" in one]
    assert len(listed) == MAX_LISTED_TASKS
    wire.max_payload = 2_000
    shortened = wire.ask("$SRV.STATS")
    assert shortened["metadata"]["truncated"] == "true"
    assert not [one for one in shortened["endpoints"] if "data" in one]
    wire.max_payload = 10
    assert wire.ask("$SRV.STATS") == {}


async def test_nothing_is_answered_after_the_stop_or_without_a_reply_subject(discovery: Discovery, wire: Wire) -> None:
    wire.handlers["$SRV.PING"](b"$SRV.PING", b"", b"", None)
    discovery.stop()
    assert wire.ask("$SRV.PING") == {}
    assert wire.sent == []
