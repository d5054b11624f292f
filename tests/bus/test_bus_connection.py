"""Connections (wire: section 6): first attempts, raw handlers, reconnects."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.bus.connection import connect
from dwarf_nats.embedded import NatsServer
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.wire.connecting import ConnectOptions


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
