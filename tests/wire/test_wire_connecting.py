"""Where a connection goes and as whom (wire: section 6)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.wire.connecting import RECONNECT_BACKOFF, connect_client, next_server
from dwarf_nats.wire.servers import Identity


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
    assert options.tls_ca == f"{config['HOME']}/ca.pem"
    path = f"{config['XDG_CONFIG_HOME']}/nats/context/staging.json"
    assert ConnectOptions(context=path).resolved({}).url == "nats://ctx:1"


def test_the_environment_names_files_too() -> None:
    assert ConnectOptions().resolved({"NATS_CREDS": "/x/me.creds"}).creds == "/x/me.creds"


def test_without_the_environment_only_what_is_given_counts(config: dict[str, str]) -> None:
    """As for the server that `dev` has started itself."""
    options = ConnectOptions("nats://a:1", environment=False)
    assert options.resolved({**config, "NATS_CA": "/x", "NATS_USER": "u", "NATS_CONTEXT": "staging"}) == options


def test_options_given_go_over_others() -> None:
    merged = ConnectOptions(url="nats://a:1", user="ada").over(ConnectOptions(url="nats://b:1", token="t"))
    assert merged == ConnectOptions(url="nats://a:1", user="ada", token="t")


def test_several_servers_are_named_and_secrets_are_not_shown() -> None:
    options = ConnectOptions(url="nats://user:secret@a:1, b:2")
    assert [one.url for one in options.servers] == ["nats://a:1", "nats://b:2"]
    assert "secret" not in repr(options)
    assert options.label == "nats://a:1,nats://b:2"
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
        assert 0 <= RECONNECT_BACKOFF.delay(1000) <= 2


SPECIAL = ["p@x", "p/x", "a%b", "a:b", "a#b?c", "grün", "a,b", "a b", "[x]", "plain", "50%"]


@pytest.mark.parametrize("password", SPECIAL)
def test_user_and_password_of_a_url_are_percent_decoded(password: str) -> None:
    """As the `nats` command line reads them."""
    url = f"nats://me%40home:{quote(password, safe='')}@h:1,nats://t%2Fk@g,h2"
    arguments = ConnectOptions(url, user="else", password="x").arguments("me")
    assert arguments["servers"] == ["nats://h:1", "nats://g:4222", "nats://h2:4222"]
    who = arguments["identities"]
    assert who["h:1"] == Identity("me@home", password)
    assert who["g:4222"] == Identity(token="t/k")
    assert who["h2:4222"] == who[""] == Identity("else", "x")


@pytest.mark.parametrize("password", ["p@x", "p/x", "a:b", "a#b?c", "a b", "50%", "[x"])
def test_what_stands_in_a_password_as_it_is_is_read_where_it_can_be(password: str) -> None:
    assert ConnectOptions(f"nats://u:{password}@h:1").arguments("me")["identities"]["h:1"] == Identity("u", password)


@pytest.mark.parametrize(
    "url",
    [
        "nats://u:S3cret,x@h:1",
        "nats://u:S3cret",
        "http://u:S3cret@h",
        "nats//u:S3cret@h",
        "nats://u:S3cret@h:port",
        "nats://u:S3cret@h:99999",
        "nats://u:S3cret@h:0",
        "nats://u:S3cret@",
        "nats://u:S3cret@h:1/x",
        "nats://u:S3cret@[::1",
        "nats://u:S3cret@h:1?x=S3cret",
        "ws://u:S3cret@h,nats://g",
    ],
)
def test_what_is_no_nats_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        ConnectOptions(url).arguments("me")
    assert "S3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("h", "nats://h:4222"),
        ("h:1/", "nats://h:1"),
        ("TLS://h", "tls://h:4222"),
        ("nats://[::1]:5", "nats://[::1]:5"),
    ],
)
def test_a_server_is_named_in_full(url: str, server: str) -> None:
    assert ConnectOptions(url).arguments("me")["servers"] == [server]


@pytest.mark.parametrize(("url", "server"), [("wss://u:p@h/nats", "wss://h/nats"), ("wss://h:8443", "wss://h:8443")])
def test_a_websocket_may_have_a_path(url: str, server: str) -> None:
    assert [one.url for one in ConnectOptions(url).servers] == [server]


def test_the_context_that_is_selected_counts_where_nothing_else_says_where_nats_is(config: dict[str, str]) -> None:
    folder = Path(config["XDG_CONFIG_HOME"]) / "nats"
    (folder / "context.txt").write_text("staging\n")
    assert ConnectOptions().resolved(config).user == "ada"
    assert ConnectOptions(url="nats://arg:1").resolved(config).user == ""
    assert ConnectOptions().resolved({**config, "NATS_URL": "nats://env:1"}).user == ""
    (folder / "context.txt").write_text("gone")
    with pytest.raises(BadRequest, match=r"'gone' at .*; there are broken, odd, staging in"):
        ConnectOptions().resolved(config)


def test_without_the_variable_contexts_are_under_the_home_folder(config: dict[str, str]) -> None:
    home = Path(config["HOME"])
    (home / ".config").mkdir()
    (home / "nats").rename(home / ".config" / "nats")
    assert ConnectOptions(context="staging").resolved({"HOME": str(home)}).user == "ada"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"nsc": "nsc://o/a/u"}, "asks for a lookup by the program nsc"),
        ({"socks_proxy": "socks5://p"}, "asks for a SOCKS proxy"),
        ({"creds": "nsc://o/a/u"}, r"names nsc://… in creds, which is not supported"),
        ({"creds": "op://vault/item"}, r"names op://… in creds"),
        ({"token": "env://NOT_THERE"}, "takes token from the variable NOT_THERE, which is not set"),
        ({"user_jwt": "eyJ"}, "a user_jwt without its seed"),
    ],
)
def test_what_a_context_asks_for_and_is_not_supported_is_told(
    config: dict[str, str], fields: dict[str, str], told: str
) -> None:
    context = Path(config["XDG_CONFIG_HOME"]) / "nats" / "context" / "mine.json"
    context.write_text(json.dumps(fields))
    with pytest.raises(BadRequest, match=told):
        ConnectOptions(context="mine").resolved(config).arguments("me")


def test_paths_and_values_of_a_context_are_expanded(config: dict[str, str]) -> None:
    context = Path(config["XDG_CONFIG_HOME"]) / "nats" / "context" / "mine.json"
    fields = {"creds": "$CERTS/me.creds", "ca": "file:///x/${SUB}/ca.pem", "cert": "~/c.pem", "token": "env://T",
              "jetstream_domain": "hub", "description": "$CERTS", "color_scheme": "red"}  # fmt: skip
    context.write_text(json.dumps(fields))
    options = ConnectOptions(context="mine").resolved({**config, "CERTS": "/certs", "SUB": "s", "T": "tok"})
    assert (options.creds, options.tls_ca, options.tls_cert, options.token) == (
        "/certs/me.creds", "/x/s/ca.pem", f"{config['HOME']}/c.pem", "tok"
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "hello\n", "-----BEGIN NATS USER JWT-----\neyJ.a.b\n------END NATS USER JWT------\n"]
)
def test_a_file_that_holds_no_credentials_is_told_at_once(tmp_path: Path, text: str) -> None:
    """nats-py reads such a file for ever."""
    (tmp_path / "me.creds").write_text(text)
    with pytest.raises(BadRequest, match=r"me\.creds is not one: it has no section"):
        ConnectOptions("nats://h", creds=tmp_path / "me.creds").arguments("me")


@pytest.mark.parametrize("prefix", ["a b", "_INBOX.>", "_INBOX.*", "_INBOX.x.", ".x", "a..b", "a\tb"])
def test_an_inbox_prefix_that_is_no_subject_is_refused(prefix: str) -> None:
    with pytest.raises(BadRequest, match="the inbox prefix .* is no subject"):
        ConnectOptions("nats://h", inbox_prefix=prefix).arguments("me")


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_websocket_without_its_library_is_told(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwarf_nats.wire.connect_options.find_spec", lambda _name: None)
    with pytest.raises(BadRequest, match=f"{scheme}:// needs the package aiohttp"):
        ConnectOptions(f"{scheme}://h").arguments("me")


def test_pauses_grow_while_connections_do_not_live_long() -> None:
    for short_lived in range(1, 20):
        bound = min(5.0, 0.1 * 2**short_lived)
        assert bound / 2 <= next_server([Tried(0)], {}, short_lived)[1] <= bound


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
            await connect_client(Deaf(), ConnectOptions("nats://127.0.0.1:1", connect_seconds=0.01), "x")
    assert cancelled == 3
