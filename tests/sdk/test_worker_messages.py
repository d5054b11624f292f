"""Messages of a worker without nats-py's queue and tasks in between: read raw, and sent with a plain call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from dwarf_nats.sdk import Worker
from dwarf_nats.sdk.batch_answers import BatchAnswers
from dwarf_nats.sdk.link import Link
from dwarf_nats.sdk.request_intake import raw_received
from tests.support.engine_side import PATIENCE, EngineSide

BLOCK = (
    b"NATS/1.0\r\nDwarf-Flow-Key: 1-2-a1B2c3D4e5F6g7H8\r\nDwarf-Task: a%20b\r\nDwarf-Accept-Ms: 1000\r\nDwarf-Queue:1 \r\n"
    b"dwarf-batch: 9\r\nDwarf-Stream: s.1-2.1-3\r\ntraceparent: 00-\xc3\xa4\xff\r\nDwarf-Batch:\r\n\r\n"
)


def test_a_raw_message_has_the_headers_that_a_worker_reads() -> None:
    """Names as NATS has them: in the case in which they are written."""
    msg = raw_received(b"_INBOX.x", b"{}", BLOCK)
    assert (msg.reply, msg.data) == ("_INBOX.x", b"{}")
    assert msg.headers == {
        "Dwarf-Accept-Ms": "1000",
        "Dwarf-Queue": "1",
        "Dwarf-Stream": "s.1-2.1-3",
        "traceparent": "00-ä�",
        "Dwarf-Batch": "",
    }
    assert raw_received(b"", b"", None).headers is None
    assert raw_received(b"", b"", b"NATS/1.0\r\n\r\n").headers == {}


class Wire:
    """Takes messages: at once until `full`, and in the general way."""

    def __init__(self, full: int) -> None:
        self.full = full
        self.sent: list[tuple[str, list[int]]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def now(self, body: bytes) -> bool:
        if len(self.sent) >= self.full:
            return False
        self.sent.append(("at once", json.loads(body)))
        return True

    async def send(self, body: bytes) -> None:
        await asyncio.sleep(0)
        self.sent.append(("later", json.loads(body)))

    def spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine))


async def test_answers_that_cannot_be_sent_at_once_are_sent_later_in_their_order() -> None:
    """Each is in one message, also if more come while others wait."""
    wire = Wire(full=1)
    answers = BatchAnswers(wire.send, wire.spawn, lambda: 1_004, wire.now)
    for number in range(5):
        answers.add(b"%d" % number)
    await asyncio.sleep(0)
    answers.add(b"5")
    assert len(wire.tasks) == 1
    await wire.tasks[0]
    assert wire.sent == [("at once", [0, 1]), ("later", [2, 3]), ("later", [4, 5])]
    wire.full = 9
    answers.add(b"6")
    await asyncio.sleep(0)
    assert wire.sent[3:] == [("at once", [6])]


async def test_without_a_connection_of_its_own_nothing_is_sent_at_once() -> None:
    """A connection that the user made is nats-py's own, and its public methods are used."""
    assert not Link().put("x", b"", {})
    assert not Link(nats.NATS()).put("x", b"", {})


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False])
async def test_requests_and_roll_calls_over_both_kinds_of_connection(
    nats_server: Any, nc: Any, prefix: str, own: bool
) -> None:
    """Wire: section 2: the worker's own connection and one that the user made behave alike, also while it stops."""
    engine = EngineSide(nc, prefix)
    began, gate = asyncio.Event(), asyncio.Event()

    async def add(n: int) -> dict[str, int]:
        return {"n": n + 1}

    async def wait() -> None:
        began.set()
        await gate.wait()

    given = None if own else await nats.connect(nats_server.url)
    worker = Worker(nats_server.url, nc=given, task_prefix=prefix, concurrency=8)
    worker.add_task("add", add)
    worker.add_task("wait", wait)
    await worker.start()
    await engine.send("add", {"n": 1})
    async with asyncio.timeout(PATIENCE):
        first: Msg = await engine.replies.get()
    assert json.loads(first.data) == {"changes": {"n": 2}}
    headers = first.headers or {}
    assert headers["Dwarf-Batch"] == "8"
    await engine.raw("add", b"nonsense")
    refused = await engine.answer()
    assert refused.error is not None
    step = await engine.send("wait")
    async with asyncio.timeout(PATIENCE):
        await began.wait()
    assert await engine.roll_call(headers["Dwarf-Worker"], [step, "1-999"]) == [step]
    stopping = asyncio.create_task(worker.stop())
    gate.set()
    assert (await engine.answer()).error is None
    assert await stopping
    if given is not None:
        assert given.is_connected
        await given.close()
