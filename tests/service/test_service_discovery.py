"""The service as NATS tools find it: PING, INFO and STATS of ADR-32, against its published schemas (wire section 1)."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.server import replica
from tests.support.caller import SCHEMAS, WAIT, Caller, connected, line, settings, take

ADR32 = Path(__file__).parents[1] / "bus" / "adr32"


@cache
def checker(verb: str) -> Any:
    schema = json.loads((ADR32 / f"{verb.lower()}_response.json").read_text())
    kind = jsonschema.validators.validator_for(schema)
    return kind(schema, format_checker=jsonschema.FormatChecker())


async def discover(caller: Caller, verb: str, tail: str = ".dwarf") -> dict[str, Any]:
    """What the replica of this deployment says; others on the same server answer as well."""
    inbox = caller.client.new_inbox()
    heard = await caller.hear(inbox)
    await caller.client.publish(f"$SRV.{verb}{tail}", b"", reply=inbox)
    while True:
        told: dict[str, Any] = json.loads((await take(heard)).data)
        if told["metadata"]["prefix"] == caller.prefix:
            checker(verb).validate(told)
            return told


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
async def test_the_service_is_found_by_verb_by_name_and_by_id(caller: Caller, verb: str) -> None:
    """ADR-32: three subjects for each verb, and the same replica behind all."""
    everyone = await discover(caller, verb, "")
    named = await discover(caller, verb)
    alone = await discover(caller, verb, f".dwarf.{named['id']}")
    assert everyone["id"] == named["id"] == alone["id"]
    assert everyone["name"] == "dwarf"
    assert everyone["type"] == f"io.nats.micro.v1.{verb.lower()}_response"


async def test_info_names_every_operation_with_schemas_that_are_published(caller: Caller) -> None:
    """Wire section 1: endpoint names are the subjects without the prefix, dots as dashes; all share a queue group."""
    info = await discover(caller, "INFO")
    document = json.loads((SCHEMAS / "asyncapi.json").read_text())
    endpoints = {one["name"]: one for one in info["endpoints"]}
    described = {name for name, one in document["operations"].items() if one["action"] == "receive" and "reply" in one}
    assert set(endpoints) == described - {"health", "health-one"}  # outside the service: every replica answers those
    for name, one in endpoints.items():
        any_event = ".>" if name == "signal" else ""
        assert one["subject"] == f"{caller.prefix}.{name.replace('-', '.')}{any_event}"
        assert one["queue_group"] == "dwarf"
        for which in ("request_schema", "response_schema"):
            assert (SCHEMAS / f"{one['metadata'][which]}.json").exists()
    for name in ("flow-create_task", "flow-run", "step-get", "shard-info", "graph-put", "task-breaker"):
        assert name in endpoints


async def test_stats_count_what_was_asked_and_what_was_refused(caller: Caller) -> None:
    """ADR-32: true numbers, also of requests that wait, of bad ones, and of those without a reply subject."""
    await caller.serves("good")
    before = {one["name"]: one for one in (await discover(caller, "STATS"))["endpoints"]}
    assert all(one["num_requests"] == one["num_errors"] == 0 for one in before.values())
    flows = [await caller.ok("flow.run", graph=line("l", "good")) for _ in range(7)]
    await asyncio.gather(*(caller.ok("flow.snapshot", flowKey=one["flowKey"]) for one in flows for _ in range(5)))
    await caller.code("flow.start", flowKey=flows[0]["flowKey"])
    await caller.raw("flow.start", b"{")
    await caller.client.publish(f"{caller.prefix}.flow.start", b"nonsense")
    await caller.code("flow.run", graph=line("l", "good"), timeoutMs=0, nonsense=1)
    endpoints = {one["name"]: one for one in (await discover(caller, "STATS"))["endpoints"]}
    run, snapshot, start, cancel = (endpoints[f"flow-{one}"] for one in ("run", "snapshot", "start", "cancel"))
    assert (run["num_requests"], run["num_errors"]) == (8, 1)
    assert (snapshot["num_requests"], snapshot["num_errors"], snapshot["last_error"]) == (35, 0, "")
    assert (start["num_requests"], start["num_errors"]) == (3, 3)
    assert start["last_error"].startswith("400:")
    assert cancel["num_requests"] == 0
    for one in endpoints.values():
        requests = one["num_requests"]
        assert (one["processing_time"] > 0) is (requests > 0)
        assert one["average_processing_time"] == (one["processing_time"] // requests if requests else 0)


async def test_the_service_answers_as_soon_as_its_ping_does_and_is_gone_after_its_drain(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str
) -> None:
    """`dwarf-nats serve` is ready when `$SRV.PING.dwarf` answers; a drained replica is not found any more."""
    async with connected(nats_server.url) as client:
        caller = Caller(client, prefix)
        async with replica(settings(nats_server.url, sqlite_dsn, prefix)):
            pong = await discover(caller, "PING")
            assert (await caller.ok("graph.list")) == {"graphs": []}
        with pytest.raises(Exception, match="no responders"):
            await client.request(f"$SRV.PING.dwarf.{pong['id']}", timeout=WAIT)
        with pytest.raises(Exception, match="no responders"):
            await client.request(f"{prefix}.graph.list", timeout=WAIT)
