"""Where a connection goes and as whom (wire: section 6)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.wire.connecting import ConnectOptions, begin, next_server, pause


@pytest.fixture
def config(tmp_path: Path) -> dict[str, str]:
    """An environment with the contexts `staging`, `broken` and `odd`."""
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    (folder / "staging.json").write_text(
        json.dumps(
            {
                "description": "x",
                "url": "nats://ctx:1",
                "user": "ada",
                "password": "s",
                "ca": "~/ca.pem",
                "inbox_prefix": "_INBOX_ada",
            }
        )
    )
    (folder / "broken.json").write_text("{")
    (folder / "odd.json").write_text('{"url": 5}')
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


def test_a_context_that_is_not_there_or_broken_is_told_with_its_path(config: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match=r"'nowhere' at .*nowhere\.json: No such file"):
        ConnectOptions(context="nowhere").resolved(config)
    with pytest.raises(BadRequest, match="broken.json is not a JSON object"):
        ConnectOptions(context="broken").resolved(config)
    with pytest.raises(BadRequest, match="odd.json has a url that is no str"):
        ConnectOptions(context="odd").resolved(config)


def test_a_context_brings_more_than_the_server(config: dict[str, str]) -> None:
    options = ConnectOptions(context="staging").resolved(config)
    assert options.inbox_prefix == "_INBOX_ada"
    assert options.tls_ca == str(Path("~/ca.pem").expanduser())
    path = f"{config['XDG_CONFIG_HOME']}/nats/context/staging.json"
    assert ConnectOptions(context=path).resolved({}).url == "nats://ctx:1"


def test_the_environment_names_files_too() -> None:
    assert ConnectOptions().resolved({"NATS_CREDS": "/x/me.creds"}).creds == "/x/me.creds"


def test_options_given_go_over_others() -> None:
    merged = ConnectOptions(url="nats://a:1", user="ada").over(ConnectOptions(url="nats://b:1", token="t"))
    assert merged == ConnectOptions(url="nats://a:1", user="ada", token="t")


def test_several_servers_are_named_and_secrets_are_not_shown() -> None:
    options = ConnectOptions(url="nats://user:secret@a:1, b:2")
    assert options.servers == ["nats://user:secret@a:1", "nats://b:2"]
    assert options.shown == "nats://a:1,nats://b:2"
    with pytest.raises(BadRequest, match="no NATS server named"):
        ConnectOptions(url=" , ").arguments("me")


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("creds", "credentials"),
        ("nkey", "nkey seed"),
        ("tls_ca", "TLS CA"),
        ("tls_cert", "TLS cert"),
        ("tls_key", "TLS key"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(field: str, what: str) -> None:
    options: dict[str, Any] = {field: "/nowhere/me"}
    with pytest.raises(BadRequest, match=rf"cannot read the {what}.* file /nowhere/me"):
        ConnectOptions(url="nats://a:1", **options).arguments("me")


def test_a_tls_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(BadRequest, match="TLS files"):
        ConnectOptions(url="nats://a:1", tls_ca=tmp_path / "ca.pem").arguments("me")


def test_what_is_sent_while_the_connection_is_down_is_never_buffered() -> None:
    arguments = ConnectOptions(url="nats://a:1").arguments("me")
    assert (arguments["pending_size"], arguments["max_reconnect_attempts"], arguments["ping_interval"]) == (0, -1, 10)
    assert "tls" not in arguments
    assert "tls" in ConnectOptions(url="tls://a:1").arguments("me")


@dataclass
class Tried:
    """A server as nats-py keeps it."""

    reconnects: int


def test_the_server_tried_least_comes_next_within_two_seconds() -> None:
    for _ in range(50):
        server, delay = next_server([Tried(30), Tried(9), Tried(12)], {})
        assert server.reconnects == 9
        assert 0 <= delay <= 2
        assert 0 <= pause(1000) <= 2


async def test_an_attempt_that_loses_its_cancellation_is_ended_all_the_same() -> None:
    """As a connection refused in the very moment in which the time is up may lose it."""
    cancelled = 0

    class Deaf:
        async def connect(self, **_: Any) -> None:
            nonlocal cancelled
            while cancelled < 3:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled += 1

    with pytest.raises(Unavailable, match="no NATS server answers at"):
        async with asyncio.timeout(20):
            await begin(Deaf(), ConnectOptions("nats://127.0.0.1:1", connect_seconds=0.01), "x")
    assert cancelled == 3
