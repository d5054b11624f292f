"""Services that know nothing of the engine, as flows ask them by requests and messages (N3, N4); they keep account.

They live in the process of the callers, so they are never killed; they go away now and then, and with every restart of NATS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client as Connection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tests.chaos.moments import Moments

SUBJECTS = "chaos-plain.>"
QUOTE, CHARGE, REFUND, TICK = "chaos-plain.quote", "chaos-plain.charge", "chaos-plain.refund", "chaos-plain.tick"


@dataclass(frozen=True)
class Call:
    """One message that came. `number` is in the reply."""

    number: int
    subject: str
    step: str
    """Shard and id of the step that sent it."""
    attempt: int
    message_id: str
    payload: Any
    at: float

    @property
    def receipt(self) -> str:
        return f"receipt-{self.number}"


class PlainServices:
    """All of them, on one connection. `on_tick` hears the payload of each message that marks the beginning of a race."""

    def __init__(self, moments: Moments, on_tick: Callable[[Any], None]) -> None:
        self.calls: list[Call] = []
        self._moments = moments
        self._on_tick = on_tick
        self._connection: Connection | None = None
        self._subscription: Subscription | None = None

    @contextlib.asynccontextmanager
    async def serving(self, url: str) -> AsyncIterator[None]:
        self._connection = await nats.connect(
            url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=_ignore
        )
        self._subscription = await self._connection.subscribe(SUBJECTS, cb=self._heard)
        await self._connection.flush()
        try:
            yield
        finally:
            await self._connection.close()

    @contextlib.asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Nobody answers meanwhile: whoever asks waits for the service (V4)."""
        assert self._connection is not None
        assert self._subscription is not None
        await self._subscription.unsubscribe()
        try:
            yield
        finally:
            self._subscription = await self._connection.subscribe(SUBJECTS, cb=self._heard)

    async def _heard(self, message: Msg) -> None:
        headers = message.headers or {}
        call = Call(
            number=len(self.calls) + 1,
            subject=message.subject,
            step=headers.get("Dwarf-Step-Id", ""),
            attempt=int(headers.get("Dwarf-Attempt", "-1")),
            message_id=headers.get("Nats-Msg-Id", ""),
            payload=json.loads(message.data) if message.data else None,
            at=time.time(),
        )
        self.calls.append(call)
        if call.subject == TICK:
            self._on_tick(call.payload)
            return
        if call.subject == REFUND:  # long enough for whoever breaks things just now
            self._moments.tell("compensation")
            await asyncio.sleep(0.05)
        if call.attempt < call.payload.get("shy", 0):
            error = {"Nats-Service-Error-Code": "418", "Nats-Service-Error": "too shy"}
            await self._reply(message, b"", error)
        else:
            await self._reply(message, json.dumps({"receipt": call.receipt, "of": call.payload}).encode(), None)

    async def _reply(self, message: Msg, body: bytes, headers: dict[str, str] | None) -> None:
        connection = self._connection
        if connection is not None and message.reply:
            with contextlib.suppress(nats.errors.Error):
                await connection.publish(message.reply, body, headers=headers)


async def _ignore(error: Exception) -> None:
    del error
