"""Connections (wire: section 6): first attempts, raw handlers, reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

import pytest
from nats.aio.client import Client, Srv

from dwarf_nats.bus.connection import connect
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.nats_client import NatsClient
from dwarf_nats.wire.connect_options import ConnectOptions

SOON = 20.0


@pytest.fixture
def dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_an_unreachable_server_is_named(dead_port: int) -> None:
    with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{dead_port}.*nats-server"):
        await connect(ConnectOptions(url=f"nats://user:secret@127.0.0.1:{dead_port}"))
    with pytest.raises(Unavailable) as caught:
        await connect(ConnectOptions(url=f"nats://user:secret@127.0.0.1:{dead_port}"))
    assert "secret" not in str(caught.value)


async def test_one_reachable_server_of_two_is_enough(dead_port: int, nats_server: NatsServer) -> None:
    connection = await connect(ConnectOptions(url=f"nats://127.0.0.1:{dead_port},{nats_server.url}"))
    assert connection.is_connected
    await connection.close()


async def test_with_retry_a_server_that_comes_later_is_found(
    own_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_server.url
    await own_server.kill()
    connecting = asyncio.create_task(connect(ConnectOptions(url=url), retry=True))
    async with asyncio.timeout(20):
        while "trying again" not in caplog.text:
            await asyncio.sleep(0)
        await own_server.start()
        connection = await connecting
    assert connection.is_connected
    await connection.close()


async def test_a_context_names_server_and_inbox(nats_server: NatsServer, tmp_path: Path) -> None:
    (tmp_path / "me.json").write_text(json.dumps({"url": nats_server.url, "inbox_prefix": "_INBOX_me"}))
    connection = await connect(ConnectOptions(context=str(tmp_path / "me.json")), "tester")
    assert connection.new_inbox().startswith("_INBOX_me.")
    assert str(connection.options["name"]).startswith("tester/")
    await connection.close()


async def test_a_seed_that_is_none_is_the_callers_fault(nats_server: NatsServer, tmp_path: Path) -> None:
    (tmp_path / "seed").write_text("nonsense")
    with pytest.raises(BadRequest, match="cannot connect to NATS"):
        await connect(ConnectOptions(url=nats_server.url, nkey=tmp_path / "seed"), retry=True)


async def test_a_raw_handler_that_fails_does_not_stop_the_connection(
    connection: Any, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bytes] = []

    def handler(_subject: bytes, _reply: bytes, body: bytes, _block: bytes | None) -> None:
        seen.append(body)
        raise ValueError("broken")

    await connection.subscribe_raw("raw.test", handler)
    await connection.flush()
    for body in (b"1", b"2"):
        await other.publish("raw.test", body)
    await other.flush()
    await connection.flush()
    assert seen == [b"1", b"2"]
    assert "a message handler failed" in caplog.text


@pytest.mark.parametrize("retry", [False, True])
async def test_a_refused_login_is_told(retry: bool, tmp_path: Path) -> None:
    (tmp_path / "nats.conf").write_text("authorization { user: a, password: b }")
    async with NatsServer(config=tmp_path / "nats.conf") as server:
        with pytest.raises(Unavailable, match=r"refused the connection: Authorization"):
            await connect(ConnectOptions(url=server.url), retry=retry)
        connection = await connect(ConnectOptions(url=server.url, user="a", password="b"))
        await connection.close()


async def test_an_error_the_server_ends_the_connection_with_leads_to_a_reconnect(connection: Any) -> None:
    back = asyncio.Event()
    connection.on_reconnect(back.set)
    connection.send("too.large", "", b"", b"x" * (connection.max_payload + 1))
    await asyncio.wait_for(back.wait(), 20)
    assert connection.is_connected
    await connection.flush()


class Fickle:
    """A server that takes connections and ends each of them: at once, or with an error."""

    def __init__(self, farewell: bytes, after: bytes) -> None:
        self.connections = 0
        self.port = 0
        self._farewell = farewell
        self._after = after

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576}\r\n')
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
                if self.connections > 1 and line.startswith(self._after):
                    writer.write(self._farewell)
                    await writer.drain()
                    break
                if self.connections == 1 and line.startswith(b"SUB"):
                    break
        writer.close()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Fickle]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()


@pytest.mark.parametrize(
    ("farewell", "after"),
    [
        (b"", b"CONNECT"),
        (b"", b"SUB"),
        (b"-ERR 'maximum subscriptions exceeded'\r\n", b"SUB"),
        (b"-ERR 'Maximum Connections Exceeded'\r\n", b"CONNECT"),
        (b"-ERR 'Authorization Violation'\r\n", b"CONNECT"),
        (b"-ERR 'User Authentication Expired'\r\n", b"SUB"),
        (b"-ERR 'Account Authentication Expired'\r\n", b"CONNECT"),
    ],
)
async def test_a_server_that_ends_every_connection_is_come_back_to_ever_more_slowly(
    farewell: bytes, after: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that jumps over each pause: what is measured is the pauses, not the time."""
    paused: list[float] = []
    sleep = asyncio.sleep

    async def jump(seconds: float, *args: Any) -> Any:
        if seconds > 0:
            paused.append(seconds)
        return await sleep(0, *args)

    async with Fickle(farewell, after).serving() as server:
        nc = await connect(ConnectOptions(f"nats://127.0.0.1:{server.port}"))
        caplog.set_level(logging.INFO)
        caplog.clear()
        monkeypatch.setattr("nats.aio.client.asyncio.sleep", jump)
        for number in range(20):
            await nc.subscribe(f"x.{number}")
        async with asyncio.timeout(60):
            while server.connections < 40:
                await sleep(0.001)
        monkeypatch.undo()
        await nc.close()
    assert sum(paused[:39]) > 39 * 0.25
    assert len(caplog.records) < 20
    assert farewell.decode().strip().removeprefix("-ERR ").strip("'").lower() in caplog.text.lower()


async def test_a_connection_that_lived_is_sought_again_at_once(own_server: NatsServer, opened: Any) -> None:
    nc = await opened(own_server.url)
    nc._connected_at -= 60
    back = asyncio.Event()
    nc.on_reconnect(back.set)
    await own_server.stop()
    await own_server.start()
    async with asyncio.timeout(30):
        await back.wait()
    assert nc._short_lived == 0


async def test_a_password_that_is_changed_while_connected_is_told_once_and_tried_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """nats-server ends the connections of a user whose password has changed; somebody may change it back."""
    config = tmp_path / "nats.conf"
    config.write_text("authorization { user: ada, password: right }")
    async with NatsServer(config=config) as server:
        nc = await connect(ConnectOptions(server.url.replace("//", "//ada:right@")))
        back = asyncio.Event()
        nc.on_reconnect(back.set)
        config.write_text("authorization { user: ada, password: other }")
        await server.stop()
        await server.start()
        async with asyncio.timeout(60):
            while "authorization violation" not in caplog.text.lower():
                await asyncio.sleep(0.02)
            config.write_text("authorization { user: ada, password: right }")
            await server.stop()
            await server.start()
            await back.wait()
        await nc.flush()
        await nc.close()
    assert "right" not in caplog.text


@pytest.mark.parametrize("password", ["p@x", "p/x", "a%b", "a:b", "a#b?c", "gr\u00fcn"])
async def test_a_percent_encoded_password_logs_in(password: str, tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(f'authorization {{ users: [ {{ user: "a", password: "{password}" }} ] }}\n')
    async with NatsServer(config=config) as server:
        nc = await connect(ConnectOptions(server.url.replace("//", f"//a:{quote(password, safe='')}@")))
        await nc.flush()
        await nc.close()


async def test_closing_a_connection_whose_other_side_is_gone_raises_nothing(
    own_server: NatsServer, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nc = await opened(own_server.url)

    async def gone() -> None:
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(nc._transport, "drain", gone)
    nc.send("x", "", b"", b"")
    await nc.close()
    assert nc.is_closed


async def test_a_server_that_is_full_is_told_as_that(tmp_path: Path) -> None:
    """It says so and closes the connection. If that resets it, what was said may be lost, and the next try tells it."""
    config = tmp_path / "nats.conf"
    config.write_text("max_connections: 1\n")
    async with NatsServer(config=config) as server:
        first = await connect(ConnectOptions(server.url))
        told = ""
        while "maximum connections exceeded" not in told:
            with pytest.raises(Unavailable, match="(?i)maximum connections exceeded|connection lost") as refused:
                await connect(ConnectOptions(server.url))
            assert not refused.value.details.get("refused")
            told = str(refused.value).lower()
        await first.close()


async def test_a_client_that_is_closed_while_it_connects_drops_the_connection() -> None:
    """A cancellation that comes when the socket is open already is lost in nats-py, which would be connected again."""
    ended = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = NatsClient()
        client.options = {"connect_timeout": SOON}
        client._status = Client.CLOSED
        with pytest.raises(asyncio.CancelledError):
            await client._connect_to_server(Srv(urlparse(f"nats://127.0.0.1:{port}")))
        async with asyncio.timeout(SOON):
            await ended.wait()
