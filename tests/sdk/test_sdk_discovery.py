"""Workers as NATS tools find them, against the published schemas of ADR-32; and finding them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from nats.aio.client import Client as Nats

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.sdk import TaskError, Worker
from dwarf_nats.sdk.discovery import find_services
from dwarf_nats.wire.tasks import encode_request
from dwarf_nats.workflow.answer import TaskCall
from dwarf_nats.workflow.state import Raw

ADR32 = Path(__file__).parents[1] / "bus" / "adr32"
FAR = 4_000_000_000_000_000


def conforms(verb: str, told: dict[str, Any]) -> dict[str, Any]:
    schema = json.loads((ADR32 / f"{verb.lower()}_response.json").read_text())
    jsonschema.validators.validator_for(schema)(schema, format_checker=jsonschema.FormatChecker()).validate(told)
    return told


def worker(nats_server: NatsServer, prefix: str) -> Worker:
    """Serves `<prefix>task.a.b` and `.c`, the latter declining."""
    made = Worker(nats_server.url, task_prefix=f"{prefix}task", name=f"{prefix} wörker", queue="mine")

    @made.task("a.b")
    async def a() -> dict[str, int]:
        return {"n": 1}

    @made.task("c")
    async def c() -> None:
        raise TaskError("declined", 402)

    return made


async def told(nc: Nats, verb: str, prefix: str, name: str = "") -> list[dict[str, Any]]:
    """What the workers of this test say; others on the same server answer as well."""
    return [conforms(verb, one) for one in await find_services(nc, verb, name) if one["name"] == f"{prefix}-w-rker"]


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
async def test_a_worker_is_found_by_verb_by_name_and_by_id(
    nc: Nats, nats_server: NatsServer, prefix: str, verb: str
) -> None:
    async with worker(nats_server, prefix), worker(nats_server, prefix):
        everyone = await told(nc, verb, prefix)
        assert len(everyone) == 2
        assert len(await told(nc, verb, prefix, f"{prefix}-w-rker")) == 2
        one = everyone[0]["id"]
        assert [found["id"] for found in await told(nc, verb, prefix, f"{prefix}-w-rker.{one}")] == [one]
    assert await told(nc, verb, prefix) == []


async def test_info_names_the_subject_and_queue_group_of_each_task(
    nc: Nats, nats_server: NatsServer, prefix: str
) -> None:
    async with worker(nats_server, prefix):
        (info,) = await told(nc, "INFO", prefix)
    assert [(one["name"], one["subject"], one["queue_group"], one["metadata"]) for one in info["endpoints"]] == [
        ("a-b", f"{prefix}task.a.b", "mine", {"task": "a.b"}),
        ("c", f"{prefix}task.c", "mine", {"task": "c"}),
    ]


async def test_stats_count_what_was_served_and_what_failed(nc: Nats, nats_server: NatsServer, prefix: str) -> None:
    async with worker(nats_server, prefix):
        for number, url in enumerate(("a.b", "a.b", "c"), 1):
            call = TaskCall(
                flow_key="1-7-a1B2c3D4e5F6g7H8",
                step_key=f"1-{number}-a1B2c3D4e5F6g7H8",
                workflow="w",
                task=url,
                url=url,
                attempt=0,
                state={},
                baggage=Raw(b"null"),
                flow_created_at=0,
                flow_updated_at=0,
                deadline=FAR,
                budget=60.0,
            )
            await nc.request(f"{prefix}task.{url}", encode_request(call, 60_000)[1], timeout=20)
        await nc.request(f"{prefix}task.a.b", b"nonsense", timeout=20)
        (stats,) = await told(nc, "STATS", prefix)
    good, bad = stats["endpoints"]
    assert (good["num_requests"], good["num_errors"]) == (3, 1)
    assert good["last_error"].startswith("400:")
    assert (bad["num_requests"], bad["num_errors"], bad["last_error"]) == (1, 1, "402:declined")
    for one in (good, bad):
        assert one["processing_time"] > 0
        assert one["average_processing_time"] == one["processing_time"] // one["num_requests"]


async def test_nobody_is_found_where_nobody_is(nc: Nats, prefix: str) -> None:
    assert await find_services(nc, "INFO", prefix) == []


@pytest.mark.parametrize(
    "subject", ["dwarf.peer.{}", "{}task.a.b", "graph.{}", "_INBOX.dwarf_replica_inbox.{}.x", "$KV.{}"]
)
async def test_nobody_is_told_where_whoever_asks_may_not_publish(
    nc: Nats, nats_server: NatsServer, prefix: str, subject: str
) -> None:
    """Wire section 7: a worker may answer wherever it is asked to; it must not speak for the service."""
    own = subject.format(prefix)
    async with worker(nats_server, prefix):
        heard = await nc.subscribe(own)
        await nc.publish(f"$SRV.INFO.{prefix}-w-rker", b"", reply=own)
        assert len(await told(nc, "INFO", prefix)) == 1  # answered after what came before it
        await nc.flush()
        assert heard.pending_msgs == 0
