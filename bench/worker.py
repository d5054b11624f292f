"""CPU that a worker of the SDK spends on one step, by the number of steps in a message.

    python -m bench.worker                 # 256, 64, 16 and 4 steps in a message, single messages, and one at a time
    python -m bench.worker --sizes 256,1

A worker in a process of its own is asked over a real nats-server by a sender that stands for the engine: no database, and no
engine that the figures would depend on. Another process beside it hardly changes them, since it is CPU that is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time

import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.batches import decode_replies, join, with_headers
from dwarf_nats.wire.tasks import batch_headers, encode_block, encode_body
from dwarf_nats.workflow.answer import TaskCall
from dwarf_nats.workflow.state import Raw

from . import serving
from .children import Child
from .shapes import ADD

_ACCEPT_MS = 1_000
_AT_ONCE = 256
"""Steps on their way at a time; a message has no more."""
_SECONDS = 30.0
Message = tuple[bytes, dict[str, str]]


class Sender:
    """Sends requests to a worker as the engine does, and waits for their answers."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._inbox = nc.new_inbox()
        self._numbers = itertools.count(1)
        self._left = 0
        self._answered = asyncio.Event()
        self._worker = ""

    async def start(self) -> None:
        """Ask for one step, whose answer names the worker."""
        await self._nc.subscribe(self._inbox, cb=self._on_answer)
        await self.send([self._alone()])

    async def _on_answer(self, msg: Msg) -> None:
        self._worker = (msg.headers or {}).get(h.WORKER, self._worker)
        self._left -= len(decode_replies(msg.data)) if msg.data.startswith(b"[") else 1
        if self._left <= 0:
            self._answered.set()

    def messages(self, steps: int, size: int) -> list[Message]:
        """Requests for a number of steps, `size` in a message."""
        if size == 1:
            return [self._alone() for _ in range(steps)]
        return [self._together(size) for _ in range(steps // size)]

    def _call(self) -> TaskCall:
        number, now = next(self._numbers), time.time_ns() // 1000
        return TaskCall(
            flow_key=f"1-{number}-a1B2c3D4e5F6g7H8",
            step_key=f"1-{number}-a1B2c3D4e5F6g7H8",
            workflow="bench",
            task="s1",
            url=ADD,
            attempt=0,
            state={"name": Raw(b'"ada"'), "n": Raw(b"3"), "pad": Raw(b'"%b"' % (b"x" * 100))},
            baggage=Raw(b"null"),
            flow_created_at=now - number,
            flow_updated_at=now,
            deadline=now + 120_000_000,
            budget=120.0,
        )

    def _alone(self) -> Message:
        call = self._call()
        lines = encode_block(call, _ACCEPT_MS).decode().split("\r\n")[1:]
        return encode_body(call), dict(line.split(": ", 1) for line in lines if line)

    def _together(self, size: int) -> Message:
        calls = [self._call() for _ in range(size)]
        members = [with_headers(encode_body(call), batch_headers(call, _ACCEPT_MS)) for call in calls]
        return join(members), {h.BATCH: str(size)}

    async def send(self, messages: list[Message]) -> None:
        """Send requests, and return once all of their steps are answered."""
        self._left = sum(int(headers.get(h.BATCH, 1)) for _, headers in messages)
        self._answered.clear()
        for body, headers in messages:
            subject = self._worker if h.BATCH in headers else f"task.{ADD}"
            await self._nc.publish(subject, body, reply=self._inbox, headers=headers)
        await asyncio.wait_for(self._answered.wait(), _SECONDS)


async def measure(sizes: list[int], steps: int, rounds: int) -> dict[str, float]:
    """Microseconds a step by size of message, and `alone`: one at a time. Of each, the cheapest round."""
    found: dict[str, float] = {}
    async with (
        NatsServer() as server,
        Child(serving.__name__, "worker", "--nats", server.url, "--prefix", "x") as worker,
    ):
        nc = await nats.connect(server.url)
        sender = Sender(nc)
        await sender.start()

        async def one_round(size: int, at_once: int) -> float:
            parts = [sender.messages(at_once, size) for _ in range(max(1, steps // at_once))]
            before = (await worker.ask())["cpu"]
            for part in parts:
                await sender.send(part)
            spent: float = (await worker.ask())["cpu"] - before
            return spent / (len(parts) * at_once) * 1e6

        for size in sizes:
            found[str(size)] = min([await one_round(size, _AT_ONCE) for _ in range(rounds)])
        found["alone"] = min([await one_round(1, 1) for _ in range(rounds)])
        await nc.close()
    return found


def main() -> None:
    """Measure, and print a line for each size."""
    parser = argparse.ArgumentParser(
        prog="bench.worker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="256,64,16,4,1", help="steps in a message, 256 at most")
    parser.add_argument("--steps", type=int, default=5_120, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sizes = [int(size) for size in args.sizes.split(",")]
    for size, cost in uvloop.run(measure(sizes, args.steps, args.rounds)).items():
        print(f"{size:>5}: {cost:6.1f} µs of CPU a step")


if __name__ == "__main__":
    main()
