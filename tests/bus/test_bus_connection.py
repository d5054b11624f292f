"""Connections (wire: section 6): options, contexts, clear errors."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.bus.connection import connect
from dwarf_nats.bus.options import ConnectOptions
from dwarf_nats.errors import BadRequest, Unavailable


def context(home: Path, name: str, **fields: object) -> None:
    place = home / "nats" / "context"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.json").write_text(json.dumps(fields))


def test_url_from_arguments_then_environment_then_default() -> None:
    assert ConnectOptions().resolved({}).servers == "nats://127.0.0.1:4222"
    assert ConnectOptions().resolved({"NATS_URL": "nats://env:1"}).servers == "nats://env:1"
    assert ConnectOptions(servers="nats://arg:1").resolved({"NATS_URL": "nats://env:1"}).servers == "nats://arg:1"
    assert ConnectOptions(servers="nats://a:1, nats://b:2").urls() == ["nats://a:1", "nats://b:2"]


def test_a_context_of_the_nats_cli_is_honoured(tmp_path: Path) -> None:
    context(tmp_path, "prod", url="nats://prod:4222", creds="/x/me.creds", inbox_prefix="_INBOX_me", token="")
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    for options in (
        ConnectOptions(context="prod").resolved({**environment, "NATS_URL": "nats://env:1"}),
        ConnectOptions().resolved({**environment, "NATS_CONTEXT": "prod"}),
    ):
        assert (options.servers, options.creds, options.inbox_prefix) == (
            "nats://prod:4222",
            "/x/me.creds",
            "_INBOX_me",
        )
    both = ConnectOptions().resolved({**environment, "NATS_CONTEXT": "prod", "NATS_URL": "nats://env:1"})
    assert (both.servers, both.creds) == ("nats://env:1", "/x/me.creds")
    given = ConnectOptions(context="prod", servers="nats://arg:1").resolved(environment)
    assert (given.servers, given.creds) == ("nats://arg:1", "/x/me.creds")


def test_a_context_that_is_not_there_or_broken_is_told(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    with pytest.raises(BadRequest, match="no NATS context 'gone'"):
        ConnectOptions(context="gone").resolved(environment)
    context(tmp_path, "bad", url=5)
    with pytest.raises(BadRequest, match="servers"):
        ConnectOptions(context="bad").resolved(environment)
    (tmp_path / "nats" / "context" / "worse.json").write_text("{")
    with pytest.raises(BadRequest, match="not a JSON object"):
        ConnectOptions(context="worse").resolved(environment)


def test_credential_files_that_cannot_be_read_are_told() -> None:
    with pytest.raises(BadRequest, match=r"credentials file /nowhere/me\.creds"):
        ConnectOptions(creds="/nowhere/me.creds").credentials()


@pytest.fixture
def dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_an_unreachable_server_is_named(dead_port: int) -> None:
    with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{dead_port}.*nats-server"):
        await connect(ConnectOptions(servers=f"nats://user:secret@127.0.0.1:{dead_port}"))
    with pytest.raises(Unavailable) as caught:
        await connect(ConnectOptions(servers=f"nats://user:secret@127.0.0.1:{dead_port}"))
    assert "secret" not in str(caught.value)


async def test_one_reachable_server_of_two_is_enough(dead_port: int, shared_server: Any) -> None:
    connection = await connect(ConnectOptions(servers=f"nats://127.0.0.1:{dead_port},{shared_server.url}"))
    assert connection.is_connected
    await connection.close()


async def test_with_retry_a_server_that_comes_later_is_found(own_server: Any) -> None:
    own_server.stop()
    connecting = asyncio.create_task(connect(ConnectOptions(servers=own_server.url), retry=True))
    await asyncio.to_thread(own_server.start)
    connection = await asyncio.wait_for(connecting, 20)
    assert connection.is_connected
    await connection.close()


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


async def test_a_refused_login_is_told(own_server: Any, tmp_path: Path) -> None:
    server = type(own_server)(tmp_path, "--user", "a", "--pass", "b")
    server.start()
    try:
        with pytest.raises(Unavailable, match=r"(?i)authorization"):
            await connect(ConnectOptions(servers=server.url))
        connection = await connect(ConnectOptions(servers=server.url, user="a", password="b"))
        await connection.close()
    finally:
        server.stop()


async def test_an_error_the_server_ends_the_connection_with_leads_to_a_reconnect(connection: Any) -> None:
    back = asyncio.Event()
    connection.on_reconnect(back.set)
    connection.send("too.large", "", b"", b"x" * (connection.max_payload + 1))
    await asyncio.wait_for(back.wait(), 20)
    assert connection.is_connected
    await connection.flush()
