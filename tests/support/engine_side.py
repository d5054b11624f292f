"""The engine's side of the task protocol, by hand: for tests of workers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from dwarf_nats.wire.tasks import decode_reply, encode_request
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.state import Raw

FAR = 4_000_000_000_000_000
PATIENCE = 20.0


class EngineSide:
    """Calls tasks the way the engine does."""

    def __init__(self, nc: Nats, prefix: str) -> None:
        self.nc = nc
        self.prefix = prefix
        self.signals: asyncio.Queue[Msg] = asyncio.Queue()
        self.replies: asyncio.Queue[Msg] = asyncio.Queue()
        self.numbers = iter(range(1, 10_000))

    async def send(self, url: str, state: dict[str, Any] | None = None, accept_ms: int = 60_000, **more: Any) -> str:
        """Send a request; returns the token-free id of its step."""
        number = next(self.numbers)
        call = TaskCall(
            **{
                "flow_key": "1-7-a1B2c3D4e5F6g7H8",
                "step_key": f"1-{number}-a1B2c3D4e5F6g7H8",
                "workflow": "w",
                "task": url,
                "url": url,
                "attempt": 0,
                "state": {k: Raw(json.dumps(v).encode()) for k, v in (state or {}).items()},
                "baggage": Raw(b"null"),
                "flow_created_at": 0,
                "flow_updated_at": 0,
                "deadline": FAR,
                "budget": 60.0,
                **more,
            }
        )
        block, body = encode_request(call, accept_ms)
        headers = dict(line.split(": ", 1) for line in block.decode().split("\r\n")[1:] if line)
        await self.raw(url, body, headers)
        return f"1-{number}"

    async def raw(self, url: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        inbox = self.nc.new_inbox()

        async def on_reply(msg: Msg) -> None:
            await (self.signals if (msg.headers or {}).get("Dwarf-Signal") else self.replies).put(msg)

        await self.nc.subscribe(inbox, cb=on_reply)
        await self.nc.publish(f"{self.prefix}.{url}", body, reply=inbox, headers=headers)

    async def answer(self) -> Answer:
        """The next answer, decoded as the engine does it."""
        async with asyncio.timeout(PATIENCE):
            msg = await self.replies.get()
        assert (msg.headers or {}).get("Status") != "503", "nobody serves the task"
        block = "NATS/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in (msg.headers or {}).items()) + "\r\n"
        return decode_reply("t", block.encode() if msg.headers else None, msg.data)

    async def call(self, url: str, state: dict[str, Any] | None = None, **more: Any) -> Answer:
        await self.send(url, state, **more)
        return await self.answer()

    async def accepted(self) -> str:
        """The private subject of the next *accepted*, or *queued*."""
        async with asyncio.timeout(PATIENCE):
            msg = await self.signals.get()
        assert not msg.data
        assert msg.headers is not None
        assert msg.headers["Dwarf-Signal"] in ("accepted", "queued")
        return msg.headers["Dwarf-Worker"]

    async def signal(self) -> dict[str, str]:
        """The headers of the next signal."""
        async with asyncio.timeout(PATIENCE):
            msg = await self.signals.get()
        assert not msg.data
        return dict(msg.headers or {})

    async def roll_call(self, worker: str, steps: list[str], cancel: list[str] | None = None) -> list[str]:
        body = json.dumps({"steps": steps, "cancel": cancel or []}).encode()
        reply = json.loads((await self.nc.request(worker, body, timeout=PATIENCE)).data)
        assert set(reply) <= {"running", "queued"}
        self.queued: list[str] | None = reply.get("queued")
        running: list[str] = reply["running"]
        return running
