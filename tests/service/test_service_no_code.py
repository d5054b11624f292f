"""The example without code: an order over plain NATS services, a person and an event (`examples/no-code`)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dwarf_nats.dev_servers import NatsServer
from tests.support.caller import WAIT, Caller, deployment

EXAMPLE = Path(__file__).parents[2] / "examples" / "no-code"
SMALL = [{"sku": "CB-USBC-2M", "quantity": 2}, {"sku": "KB-TKL-ISO", "quantity": 1}]
LARGE = [{"sku": "DSK-OAK-180", "quantity": 1}]


class Shop:
    """The services as a process, the deployment, and what the services wrote."""

    def __init__(self, caller: Caller, lines: asyncio.StreamReader) -> None:
        self.caller = caller
        self._lines = lines

    async def order(self, number: str, lines: list[dict[str, Any]]) -> str:
        state = {"order_id": number, "customer": "4711", "lines": lines}
        reply = await self.caller.ok("flow.create", workflow="order", state=state, start=True)
        return str(reply["flowKey"])

    async def outcome(self, key: str) -> dict[str, Any]:
        reply: dict[str, Any] = await self.caller.ok("flow.await", flowKey=key, timeoutMs=int(WAIT * 1000))
        return reply

    async def pay(self, number: str) -> None:
        """A plain publish, as the payment service would send it."""
        body = json.dumps({"key": number, "data": {"method": "card"}}).encode()
        await self.caller.client.publish(f"{self.caller.prefix}.signal.payment.settled", body)

    async def waits_at(self, key: str, task: str) -> None:
        """Wait until the flow is at this node."""
        async with asyncio.timeout(WAIT):
            while not any(
                step["task"] == task for step in (await self.caller.ok("flow.history", flowKey=key))["steps"]
            ):
                await asyncio.sleep(0)

    async def served(self, *subjects: str) -> list[str]:
        """Wait until the services answered these subjects, in any order; their lines."""
        wanted, seen = list(subjects), []
        while wanted:
            line = (await asyncio.wait_for(self._lines.readline(), WAIT)).decode()
            seen.append(line)
            subject = line.split(" ", 1)[0]
            if subject in wanted:
                wanted.remove(subject)
        return seen


@pytest.fixture
async def shop(dsn: str, prefix: str) -> AsyncIterator[Shop]:
    server = NatsServer(jetstream=True)
    await server.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLE / "services.py"),
        env={**os.environ, "NATS_URL": server.url},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert (await asyncio.wait_for(process.stdout.readline(), WAIT)).startswith(b"serving ")
        async with deployment(server.url, dsn, prefix) as caller:
            await caller.client.jetstream().add_stream(name="ORDERS", subjects=["orders.>"])
            for name in ("shipping", "order"):
                graph = yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text())
                assert "warnings" not in await caller.ok("graph.put", **graph)
            yield Shop(caller, process.stdout)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), WAIT) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await server.stop()


def test_the_services_know_nothing_of_workflows() -> None:
    text = (EXAMPLE / "services.py").read_text()
    assert "dwarf" not in text.lower()


async def test_a_small_order_waits_for_its_payment_and_is_shipped(shop: Shop) -> None:
    """N1-N5, N7: the event may come at any time, also before the step waits for it (E1)."""
    await shop.pay("A-1")
    key = await shop.order("A-1", SMALL)
    outcome = await shop.outcome(key)
    assert outcome["status"] == "completed", outcome
    state = outcome["state"]
    assert [one["sku"] for one in state["reserved"]] == ["CB-USBC-2M", "KB-TKL-ISO"]
    assert state["total"] == 2 * 1_590 + 11_900
    assert state["payment"] == {"method": "card"}
    assert state["ship"]["parcel"] == "parcel of 2 for A-1"
    stored = await shop.caller.client.jetstream().get_last_msg("ORDERS", "orders.shipped")
    assert stored.data is not None
    assert json.loads(stored.data) == {"order": "A-1", "parcel": "parcel of 2 for A-1"}
    steps = (await shop.caller.ok("flow.history", flowKey=key))["steps"]
    assert [step["kind"] for step in steps] == [
        "set", "request", "request", "request", "set", "request", "wait", "workflow", "publish",
    ]  # fmt: skip


async def test_a_large_order_asks_a_person(shop: Shop) -> None:
    """N6, P5: the answer is given to the step that asks."""
    key = await shop.order("A-2", LARGE)
    paused = await shop.outcome(key)
    assert paused["status"] == "interrupted"
    (pause,) = paused["pauses"]
    assert pause["payload"] == {"question": "May order A-2 go out?", "cents": 214_000}
    await shop.caller.ok("flow.resume", stepKey=pause["stepKey"], data={"yes": True})
    await shop.served("billing.charge")
    await shop.pay("A-2")
    outcome = await shop.outcome(key)
    assert outcome["status"] == "completed", outcome
    assert outcome["state"]["approval"] == {"yes": True}


async def test_a_person_says_no(shop: Shop) -> None:
    key = await shop.order("A-3", LARGE)
    assert (await shop.outcome(key))["status"] == "interrupted"
    await shop.caller.ok("flow.resume", flowKey=key, data={"yes": False})
    outcome = await shop.outcome(key)
    assert outcome["status"] == "completed"
    assert "charge" not in outcome["state"]


async def test_a_refused_charge_releases_the_stock(shop: Shop) -> None:
    """N9, L2: the answer 402 of the service is the error of the flow, after its tries."""
    key = await shop.order("A-4", [{"sku": "DSK-OAK-180", "quantity": 5}])
    assert (await shop.outcome(key))["status"] == "interrupted"
    await shop.caller.ok("flow.resume", flowKey=key, data={"yes": True})
    outcome = await shop.outcome(key)
    assert outcome["status"] == "failed"
    assert outcome["error"]["code"] == 402
    assert "the card has a limit" in outcome["error"]["message"]
    await shop.served("stock.release")


async def test_a_cancelled_order_is_refunded_and_released(shop: Shop) -> None:
    """N9: in reverse order of completion."""
    key = await shop.order("A-5", SMALL)
    await shop.waits_at(key, "payment")
    await shop.served("billing.charge")
    await shop.caller.ok("flow.cancel", flowKey=key, reason="changed my mind")
    outcome = await shop.outcome(key)
    assert (outcome["status"], outcome["cancelReason"]) == ("cancelled", "changed my mind")
    lines = await shop.served("billing.refund", "stock.release", "stock.release")
    assert [line.split(" ", 1)[0] for line in lines] == ["billing.refund", "stock.release", "stock.release"]
    assert '"receipt":"R-A-5"' in lines[0]
