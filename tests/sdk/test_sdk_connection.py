"""Where the connection goes and as whom (wire section 6)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Server
from sdk_helpers import refuse

from dwarf_nats.embedded import NatsServer
from dwarf_nats.errors import BadRequest, TooLarge, Unavailable
from dwarf_nats.sdk.connection import ConnectOptions, connect, pick_server, servers_of, shown
from dwarf_nats.sdk.replies import refusal
from dwarf_nats.sdk.requests import check_size, size_of


@pytest.fixture
def config(tmp_path: Path) -> dict[str, str]:
    """An environment with the contexts `staging` and `broken`."""
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    (folder / "staging.json").write_text(
        json.dumps({"description": "x", "url": "nats://ctx:1", "user": "ada", "password": "s", "ca": "~/ca.pem"})
    )
    (folder / "broken.json").write_text("{")
    return {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("given", "environment", "url", "user"),
    [
        ({}, {}, "nats://127.0.0.1:4222", ""),
        ({}, {"NATS_URL": "nats://env:1"}, "nats://env:1", ""),
        ({"url": "nats://arg:1"}, {"NATS_URL": "nats://env:1"}, "nats://arg:1", ""),
        ({"context": "staging"}, {"NATS_URL": "nats://env:1"}, "nats://ctx:1", "ada"),
        ({"context": "staging", "url": "nats://arg:1"}, {}, "nats://arg:1", "ada"),
        ({}, {"NATS_CONTEXT": "staging"}, "nats://ctx:1", "ada"),
        ({}, {"NATS_CONTEXT": "staging", "NATS_URL": "nats://env:1"}, "nats://env:1", "ada"),
        ({"user": "bob"}, {"NATS_CONTEXT": "staging"}, "nats://ctx:1", "bob"),
    ],
)
def test_arguments_go_before_environment_and_context(
    config: dict[str, str], given: dict[str, Any], environment: dict[str, str], url: str, user: str
) -> None:
    resolved = ConnectOptions(**given).resolved({**config, **environment})
    assert (resolved.url, resolved.user) == (url, user)


def test_a_context_that_cannot_be_read_is_told_with_its_path(config: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match=r"'nowhere' at .*nowhere\.json: No such file"):
        ConnectOptions(context="nowhere").resolved(config)
    with pytest.raises(BadRequest, match="not valid JSON"):
        ConnectOptions(context="broken").resolved(config)


def test_secrets_are_not_shown() -> None:
    assert shown("nats://user:secret@a:1,nats://b:2") == "nats://a:1,nats://b:2"
    assert servers_of("a:1, nats://b:2") == ["nats://a:1", "nats://b:2"]


def test_the_server_tried_least_comes_next_within_two_seconds() -> None:
    from urllib.parse import urlparse

    servers = [Server(uri=urlparse(f"nats://s{tries}:1"), reconnects=tries) for tries in (30, 9, 12)]
    for _ in range(50):
        server, delay = pick_server(servers, {})
        assert server.reconnects == 9
        assert 0 <= delay <= 2


async def test_a_connection_announces_itself_and_never_buffers(nats_server: NatsServer) -> None:
    nc = await connect(ConnectOptions(url=nats_server.url), "tester")
    try:
        assert str(nc.options["name"]).startswith("tester/")
        assert nc._max_pending_size == 0
        assert nc.options["max_reconnect_attempts"] == -1
        assert nc.options["ping_interval"] == 10
    finally:
        await nc.close()


async def test_a_refused_login_is_told_at_once(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text('authorization { user: ada, password: "right" }')
    async with NatsServer(config=config) as server:
        wrong = ConnectOptions(url=server.url, user="ada", password="wrong", connect_seconds=60)
        with pytest.raises(Unavailable, match=rf"{server.url} refused the connection: Authorization Violation"):
            await connect(wrong, "tester", wait_for_ever=True)
        nc = await connect(ConnectOptions(url=server.url, user="ada", password="right"), "tester")
        await nc.close()


async def test_a_file_that_is_not_there_is_named(nats_server: NatsServer, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for options in (
        ConnectOptions(url=nats_server.url, creds=gone),
        ConnectOptions(url=nats_server.url, nkey=gone),
        ConnectOptions(url=nats_server.url, tls_ca=gone),
    ):
        with pytest.raises(BadRequest, match=str(gone)):
            await connect(options, "tester")


@pytest.mark.parametrize("headers", [None, {"A": "b", "Name": "wért"}])
async def test_the_size_checked_is_the_size_the_server_counts(
    nats_server: NatsServer, headers: dict[str, str] | None
) -> None:
    """One byte more makes the server cut the connection; this many it takes (wire section 2)."""
    nc = await nats.connect(nats_server.url, allow_reconnect=False)
    try:
        limit = nc.max_payload
        payload = b"x" * (limit - size_of(b"", headers))
        check_size(nc, payload, headers, "it")
        with pytest.raises(TooLarge, match=f"{limit + 1} bytes"):
            check_size(nc, payload + b"x", headers, "it")
        subscription = await nc.subscribe("size.test")
        await nc.publish("size.test", payload, headers=headers)
        assert (await subscription.next_msg(timeout=10)).data == payload
    finally:
        await nc.close()


def test_the_body_of_a_refusal_goes_before_its_headers() -> None:
    headers, body = refuse(409, "first line", flowKey="k", prevState={"a": 1})
    message = type("Message", (), {"headers": headers, "data": json.dumps(body).encode()})
    error = refusal(message)  # type: ignore[arg-type]
    assert error is not None
    assert (error.code, error.message) == (409, "first line")
    assert error.details == {"flow_key": "k", "prev_state": {"a": 1}}
