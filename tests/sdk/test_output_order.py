"""The order of output: what was lost, what runs again, and what comes too late (B8)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest

from dwarf_nats.sdk.link import Link
from dwarf_nats.sdk.output import MAX_WAITING_BYTES, ExecutionOutput, OutputPublisher
from dwarf_nats.summed import Summed
from dwarf_nats.wire.output import chunk_json, read_chunk
from dwarf_nats.workflow.answer import Answer
from dwarf_nats.workflow.output import Chunk, Output, OutputEnd
from dwarf_nats.workflow.output_order import Order

SUBJECT = "dwarf.stream.1-7.1-9"


def chunk(execution: str, number: int, end: OutputEnd | None = None, step: str = "1-9") -> Chunk:
    return Chunk(data="x", step_id=step, execution=execution, number=number, end=end)


def placed(order: Order, *chunks: Chunk) -> list[tuple[str, int, int, bool] | None]:
    found = [order.placed(one) for one in chunks]
    return [None if one is None else (one.execution, one.number, one.missed, one.restarted) for one in found]


async def test_gaps_are_counted_and_a_replaced_execution_is_heard_no_more() -> None:
    """A worker that was given up goes on emitting beside the one that runs the step now."""
    order = Order()
    assert placed(order, chunk("a", 2), chunk("a", 3), chunk("b", 1), chunk("a", 4), chunk("b", 5)) == [
        ("a", 2, 1, False),
        ("a", 3, 0, False),
        ("b", 1, 0, True),
        None,
        ("b", 5, 3, False),
    ]


async def test_the_end_is_known_once_the_last_execution_of_each_step_has_ended() -> None:
    order = Order()
    assert order.all_ended.is_set()
    placed(order, chunk("a", 1), chunk("c", 1, step="1-10"))
    placed(order, chunk("b", 1), chunk("b", 2, OutputEnd.DONE))
    assert not order.all_ended.is_set()
    placed(order, chunk("c", 2, OutputEnd.FAILED, step="1-10"))
    assert order.all_ended.is_set()


@pytest.mark.parametrize(
    ("headers", "body", "data"),
    [
        (None, b"text", "text"),
        ({"content-type": "application/json; charset=utf-8"}, b'{"a":1}', {"a": 1}),
        ({"Content-Type": "application/json"}, b"{no", "{no"),
        ({"Content-Type": "application/octet-stream"}, b"text", b"text"),
        ({"Content-Type": "text/plain"}, b"\xff", b"\xff"),
        ({"Dwarf-Number": "-1", "Dwarf-Attempt": "x", "Dwarf-End": "odd"}, b"", ""),
        ({"Dwarf-End": "done"}, b"", None),
    ],
)
def test_whatever_is_published_can_be_read(headers: Mapping[str, str] | None, body: bytes, data: object) -> None:
    read = read_chunk(SUBJECT, headers, body)
    assert read.data == data
    assert (read.step_id, read.flow_id, read.number, read.attempt) == ("1-9", "1-7", 0, 0)


def test_a_chunk_as_json_says_what_there_is_to_say() -> None:
    assert chunk_json(read_chunk(SUBJECT, None, b"\xff")) == {"base64": "/w==", "stepId": "1-9", "flowId": "1-7"}
    said = {"Dwarf-End": "done", "Dwarf-Task": "Pr%C3%BCfung", "Dwarf-Number": "2", "Dwarf-Execution": "e"}
    assert chunk_json(read_chunk(SUBJECT, said, b"")) == {
        "task": "Prüfung",
        "stepId": "1-9",
        "flowId": "1-7",
        "execution": "e",
        "number": 2,
        "end": "done",
    }


class Slow(OutputPublisher):
    """A publisher over a connection that is away until `back`, and may not come back."""

    def __init__(self, comes: bool = True) -> None:
        super().__init__(Link(), Summed(logging.getLogger("test")))
        self.back = asyncio.Event()
        self.comes = comes
        self.sent: list[tuple[int, str]] = []

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> bool:
        assert subject == SUBJECT
        assert bool(body) != ("Dwarf-End" in headers)
        await self.back.wait()
        if self.comes:
            self.sent.append((int(headers["Dwarf-Number"]), headers.get("Dwarf-End", "")))
        return self.comes


async def test_while_the_connection_is_away_the_newest_output_waits() -> None:
    slow = Slow()
    output = ExecutionOutput(slow, SUBJECT, {}, frozenset())
    for _ in range(12):
        output.emit(Output(b"x" * (MAX_WAITING_BYTES // 8)))
        await asyncio.sleep(0)
    ending = asyncio.ensure_future(output.finish(Answer()))
    await asyncio.sleep(0)
    output.emit(Output(b"after the end"))
    slow.back.set()
    await ending
    numbers = [number for number, _ in slow.sent]
    assert numbers == [1, *range(14 - len(numbers) + 1, 14)]  # the first was on its way already
    assert len(numbers) < 13
    assert slow.sent[-1] == (13, "done")


async def test_output_that_cannot_be_sent_keeps_no_answer_waiting() -> None:
    gone = Slow(comes=False)
    gone.back.set()
    output = ExecutionOutput(gone, SUBJECT, {}, frozenset())
    output.emit(Output(b"x"))
    await asyncio.wait_for(output.finish(Answer()), 30)
    assert gone.sent == []
