"""The service driven over a bare socket that speaks the NATS protocol: no client library at all, ours or other."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from dwarf_nats.workflow.keys import parse_key

pytestmark = pytest.mark.slow

PATIENCE = 30.0


class Received(NamedTuple):
    """One MSG or HMSG. `head` is the raw header block, empty without headers."""

    subject: str
    reply: str
    head: bytes
    body: bytes


class BareSocket:
    """CONNECT, SUB, PUB, HPUB, MSG, HMSG, PING, PONG, and nothing else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.last = 0
        self.inbox = f"_INBOX.{secrets.token_hex(8)}"

    async def greet(self) -> None:
        assert (await self.reader.readline()).startswith(b"INFO ")
        self.writer.write(b'CONNECT {"verbose":false,"pedantic":true,"headers":true,"no_responders":true}\r\nPING\r\n')
        assert await self.reader.readline() == b"PONG\r\n"

    def subscribe(self, subject: str, queue: str = "") -> None:
        self.last += 1
        self.writer.write(f"SUB {subject} {queue} {self.last}\r\n".replace("  ", " ").encode())

    def publish(self, subject: str, body: bytes, reply: str = "", head: bytes = b"") -> None:
        target = f"{subject} {reply}".strip()
        if head:
            line = f"HPUB {target} {len(head)} {len(head) + len(body)}\r\n"
        else:
            line = f"PUB {target} {len(body)}\r\n"
        self.writer.write(line.encode() + head + body + b"\r\n")

    async def next(self) -> Received:
        """The next message; pings are answered on the way."""
        async with asyncio.timeout(PATIENCE):
            while True:
                line = (await self.reader.readline()).decode().split()
                assert line, "the server closed the connection"
                if line[0] == "PING":
                    self.writer.write(b"PONG\r\n")
                elif line[0] == "MSG":
                    body = await self._exactly(int(line[-1]))
                    return Received(line[1], line[3] if len(line) == 5 else "", b"", body)
                elif line[0] == "HMSG":
                    head, whole = int(line[-2]), await self._exactly(int(line[-1]))
                    return Received(line[1], line[3] if len(line) == 6 else "", whole[:head], whole[head:])
                else:
                    assert line[0] in ("PONG", "INFO"), line

    async def _exactly(self, size: int) -> bytes:
        return (await self.reader.readexactly(size + 2))[:size]

    async def ask(self, subject: str, body: Any = None, head: bytes = b"") -> Received:
        """A request whose reply is the next message on an inbox of its own."""
        inbox = f"{self.inbox}.{self.last}"
        self.subscribe(inbox)
        self.publish(subject, b"" if body is None else json.dumps(body).encode(), inbox, head)
        reply = await self.next()
        assert reply.subject == inbox
        return reply


@asynccontextmanager
async def bare(url: str) -> AsyncIterator[BareSocket]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        one = BareSocket(reader, writer)
        await one.greet()
        yield one
    finally:
        writer.close()
        await writer.wait_closed()


def headers_of(head: bytes) -> dict[str, str]:
    assert head.startswith(b"NATS/1.0\r\n")
    assert head.endswith(b"\r\n\r\n")
    return dict(line.split(": ", 1) for line in head.decode("ascii").split("\r\n")[1:] if line)


async def test_a_bare_socket_registers_runs_and_serves(service: str, prefix: str) -> None:
    task, workflow = f"{prefix}.shout", f"{prefix}-shout"
    graph = {
        "name": workflow,
        "tasks": [{"name": "shöut", "url": task}],
        "transitions": [{"from": "shöut", "to": "END"}],
    }
    async with bare(service) as caller, bare(service) as server:
        assert json.loads((await caller.ask(f"{prefix}.graph.put", graph)).body)["name"] == workflow
        server.subscribe(f"task.{task}", "shouters")
        await server.ask(f"{prefix}.graph.list")
        inbox = f"{caller.inbox}.run"
        caller.subscribe(inbox)
        run = {"workflow": workflow, "state": {"word": "hi", "big": 9223372036854775807}, "options": {"baggage": [1]}}
        caller.publish(f"{prefix}.flow.run", json.dumps(run).encode(), inbox)

        request = await server.next()
        assert request.subject == f"task.{task}"
        body, headers = json.loads(request.body), headers_of(request.head)
        assert body["state"] == {"word": "hi", "big": 9223372036854775807}
        assert body["baggage"] == [1]
        assert (body["task"], body["url"], body["workflow"], body["attempt"]) == ("shöut", task, workflow, 0)
        assert headers["Dwarf-Flow-Key"] == body["flowKey"]
        assert headers["Dwarf-Step-Key"] == body["stepKey"]
        assert headers["Dwarf-Workflow"] == workflow
        assert headers["Dwarf-Task"] == "sh%C3%B6ut"
        assert headers["Dwarf-Attempt"] == "0"
        assert headers["Dwarf-Deadline"] == body["deadline"]
        assert int(headers["Dwarf-Accept-Ms"]) > 0
        assert not {"resumed", "subgraph"} & body.keys()
        # A header named Status is the task's own affair, not the server's 503.
        server.publish(request.reply, b'{"changes":{"word":"HI!"}}', head=b"NATS/1.0\r\nStatus: 503\r\n\r\n")

        outcome = json.loads((await caller.next()).body)
        assert outcome.keys() == {"flowKey", "workflow", "status", "state"}
        assert outcome["status"] == "completed"
        assert outcome["state"] == {"word": "HI!", "big": 9223372036854775807}
        parse_key(outcome["flowKey"])


async def test_an_empty_reply_is_success_and_a_service_error_header_is_failure(service: str, prefix: str) -> None:
    task = f"{prefix}.mute"
    answers: list[tuple[bytes, bytes, dict[str, Any]]] = [
        (b"", b"", {"status": "completed"}),
        (b"NATS/1.0\r\nNats-Service-Error-Code: 402\r\nNats-Service-Error: no m%C3%B6ney\r\n\r\n", b"",
         {"status": "failed", "error": {"message": "no möney", "code": 402}}),
        (b"", b'{"error":"plain text"}', {"status": "failed", "error": {"message": "plain text", "code": 500}}),
    ]  # fmt: skip
    async with bare(service) as caller, bare(service) as server:
        server.subscribe(f"task.{task}", "mutes")
        await server.ask(f"{prefix}.graph.list")
        for head, body, expected in answers:
            made = json.loads((await caller.ask(f"{prefix}.flow.create_task", {"task": task, "start": True})).body)
            request = await server.next()
            server.publish(request.reply, body, head=head)
            outcome = json.loads((await caller.ask(f"{prefix}.flow.await", made)).body)
            assert {name: outcome.get(name) for name in expected} == expected


async def test_refusals_are_in_headers_and_body(service: str, prefix: str) -> None:
    async with bare(service) as caller:
        for operation, request, code in (
            ("flow.run", {"workflow": "no-such"}, 404),
            ("flow.run", {"workflow": "a*b"}, 400),
            ("flow.snapshot", {"flowKey": "nonsense"}, 400),
            ("flow.snapshot", {"flowKey": "1-1-aaaaaaaaaaaaaaaa"}, 404),
            ("flow.snapshot", {"flowkey": "1-1-aaaaaaaaaaaaaaaa"}, 400),
            ("flow.snapshot", None, 400),
        ):
            reply = await caller.ask(f"{prefix}.{operation}", request)
            headers = headers_of(reply.head)
            assert int(headers["Nats-Service-Error-Code"]) == code
            assert headers["Nats-Service-Error"]
            assert json.loads(reply.body)["error"]["code"] == code


async def test_an_idempotency_key_in_the_header_makes_one_flow_o1(service: str, prefix: str) -> None:
    head = b"NATS/1.0\r\nNats-Msg-Id: order-7\r\n\r\n"
    request = {"task": "nobody.serves.this", "state": {"a": 1}}
    async with bare(service) as caller:
        first = json.loads((await caller.ask(f"{prefix}.flow.create_task", request, head)).body)
        second = json.loads((await caller.ask(f"{prefix}.flow.create_task", request, head)).body)
        assert first == second
        other = await caller.ask(f"{prefix}.flow.create_task", {**request, "state": {"a": 2}}, head)
        assert headers_of(other.head)["Nats-Service-Error-Code"] == "409"


async def test_a_service_that_accepts_and_then_denies_gets_the_step_again(service: str, prefix: str) -> None:
    """Wire section 2, X11: accepted, roll call and the answer to it, byte for byte; two denials lose the step."""
    task, private = f"{prefix}.forget", f"_INBOX.{secrets.token_hex(8)}"
    accepted = f"NATS/1.0\r\nDwarf-Signal: accepted\r\nDwarf-Worker: {private}\r\n\r\n".encode()
    async with bare(service) as caller, bare(service) as server:
        server.subscribe(private)
        server.subscribe(f"task.{task}", "forgetful")
        await server.ask(f"{prefix}.graph.list")
        made = json.loads((await caller.ask(f"{prefix}.flow.create_task", {"task": task, "start": True})).body)
        first = await server.next()
        step = json.loads(first.body)["stepKey"].rpartition("-")[0]
        server.publish(first.reply, b"", head=accepted)
        calls = []
        while (received := await server.next()).subject == private:
            calls.append(received.body)
            server.publish(received.reply, b'{"running":[]}')
        assert calls == [f'{{"steps":["{step}"],"cancel":[]}}'.encode()] * 2
        assert received.subject == f"task.{task}"
        assert json.loads(received.body)["stepKey"] == json.loads(first.body)["stepKey"]
        server.publish(first.reply, b'{"changes":{"by":"the first"}}')
        server.publish(received.reply, b'{"changes":{"by":"the second"}}')
        outcome = json.loads((await caller.ask(f"{prefix}.flow.await", made)).body)
        assert outcome["state"] == {"by": "the second"}
