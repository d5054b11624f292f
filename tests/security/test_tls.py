"""TLS that is asked for is insisted on, checked, and explained (wire: section 6)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.bus.connection import connect as connect_replica
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.sdk import Client, Worker
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings
from dwarf_nats.wire.connect_options import ConnectOptions
from tests.support.identities import Authority

pytestmark = pytest.mark.slow

INFO = b'INFO {"server_id":"x","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576%s}\r\n'


@dataclass
class Listener:
    """A server that says INFO and keeps what it hears."""

    info: bytes = INFO % b""
    heard: bytearray = field(default_factory=bytearray)
    port: int = 0

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.info)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.heard += data
                writer.write(b"PONG\r\n" * data.count(b"PING"))
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        server = await asyncio.start_server(self._hear, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()


def _with_scheme(_ca: Path) -> dict[str, Any]:
    return {}


def _with_ca(ca: Path) -> dict[str, Any]:
    return {"tls_ca": ca}


@pytest.mark.parametrize(("scheme", "how"), [("tls", _with_scheme), ("nats", _with_ca), ("tls", _with_ca)])
@pytest.mark.parametrize("signed", [b"", b',"auth_required":true,"nonce":"abc"'])
async def test_nothing_is_sent_to_a_server_that_offers_no_tls(
    scheme: str, how: Callable[[Path], dict[str, Any]], signed: bytes, tmp_path: Path
) -> None:
    """Wire section 6: user and password would go in the clear."""
    options = how(Authority(tmp_path).ca)
    async with Listener(INFO % signed).listening() as listener:
        url = f"{scheme}://ada:S3cret@127.0.0.1:{listener.port}"
        for attempt in (
            connect_replica(ConnectOptions(url, **options), retry=True),
            Client(url, **options).connect(),
            worker_of(url, **options).start_patiently(),
        ):
            with pytest.raises(Unavailable, match="does not offer TLS") as refused:
                await attempt
            assert refused.value.details["refused"]
            assert "S3cret" not in str(refused.value)
    assert not listener.heard


def worker_of(url: str, **options: Any) -> Worker:
    worker = Worker(url, **options)
    worker.add_task("a", lambda word: {"word": word})
    return worker


async def test_a_server_with_and_without_tls_is_spoken_to_with_it(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("server")
    config = tmp_path / "nats.conf"
    config.write_text(f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\nallow_non_tls: true\n')
    async with NatsServer(config=config) as server:
        plain = await connect_replica(ConnectOptions(server.url))
        assert (
            plain._transport.get_extra_info("cipher") is None if hasattr(plain._transport, "get_extra_info") else True
        )
        await plain.close()
        secret = await connect_replica(ConnectOptions(server.url, tls_ca=tmp_path / "ca.pem"))
        assert encrypted(secret)
        await secret.close()


async def test_the_end_of_a_connection_with_tls_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate, key = Authority(tmp_path).issue("server")
    config = tmp_path / "nats.conf"
    config.write_text(f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n')
    async with NatsServer(config=config) as server, Client(server.url, tls_ca=tmp_path / "ca.pem") as client:
        gone = asyncio.Event()

        async def on_gone() -> None:
            gone.set()

        client.nc._disconnected_cb = on_gone
        await server.stop()
        await asyncio.wait_for(gone.wait(), 30)
    assert not [record for record in caplog.records if record.name == "asyncio"]


def encrypted(nc: Any) -> bool:
    return nc._transport._io_writer.get_extra_info("ssl_object") is not None


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"expired": True}, r"certificate has expired; renew it"),
    "self-signed": ({"alone": True}, r"self.signed certificate; name the certificate of the authority .*--tls-ca"),
    "another name": ({"names": ["nats.example.org"]}, r"IP address mismatch.*; connect by a name or an address"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_certificate_that_is_not_right_ends_the_start_and_says_what_mends_it(
    fault: str, tmp_path: Path
) -> None:
    how, told = FAULTS[fault]
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", **how)
    await _refused(tmp_path, f'cert_file: "{certificate}", key_file: "{key}"', {"tls_ca": authority.ca}, told)


async def test_a_certificate_of_an_authority_not_known_is_told_with_the_option_that_names_it(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("server")
    tls = f'cert_file: "{certificate}", key_file: "{key}"'
    await _refused(tmp_path, tls, {}, r"certificate verify failed: .*issuer certificate; name .*--tls-ca")


async def test_a_server_that_asks_for_a_certificate_is_told_of_with_the_options_that_give_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = f'cert_file: "{certificate}", key_file: "{key}", ca_file: "{authority.ca}", verify: true'
    await _refused(
        tmp_path, tls, {"tls_ca": authority.ca}, r"asks for a (client )?certificate: give one with .*--tls-cert"
    )


async def test_tls_first_against_a_server_that_speaks_first_is_told(tmp_path: Path) -> None:
    await _refused(tmp_path, "", {"tls_first": True}, r"does not begin with TLS: leave out tls_first")


async def _refused(folder: Path, tls: str, options: dict[str, Any], told: str) -> None:
    config = folder / "nats.conf"
    config.write_text(f"tls {{ {tls} }}\n" if tls else "")
    async with NatsServer(config=config) as server:
        # With `retry`, or `wait_for_servers`: what only a person can mend is not waited for.
        with pytest.raises(Unavailable, match=told):
            await connect_replica(ConnectOptions(server.url, **options), retry=True)
        with pytest.raises(Unavailable, match=told):
            await worker_of(server.url, **options).start_patiently()
        with pytest.raises(Unavailable, match=told):
            async with replica(ServerSettings.of(dsns=["sqlite://"], nats_url=server.url, **options)):
                pass


async def test_a_server_that_begins_with_tls_is_hinted_at(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    config = tmp_path / "nats.conf"
    config.write_text(f'tls {{ cert_file: "{certificate}", key_file: "{key}", handshake_first: true }}\n')
    async with NatsServer(config=config) as server:
        with pytest.raises(Unavailable, match="--tls-first"):
            await connect_replica(ConnectOptions(server.url, tls_ca=authority.ca, connect_seconds=60))
        nc = await connect_replica(ConnectOptions(server.url, tls_ca=authority.ca, tls_first=True))
        assert encrypted(nc)
        await nc.close()


async def test_a_name_is_checked_as_a_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", names=["localhost"])
    config = tmp_path / "nats.conf"
    config.write_text(f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n')
    async with NatsServer(config=config) as server:
        nc = await connect_replica(ConnectOptions(server.url.replace("127.0.0.1", "localhost"), tls_ca=authority.ca))
        await nc.close()
        with pytest.raises(Unavailable, match="IP address mismatch"):
            await connect_replica(ConnectOptions(server.url, tls_ca=authority.ca))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tls_key": "key"}, "a TLS key without a certificate"),
        ({"tls_cert": "cert", "tls_key": "other"}, "cannot use the TLS files given: .*"),
        ({"tls_cert": "cert", "tls_key": "locked"}, "the key is encrypted: decrypt it"),
        ({"tls_ca": "key"}, "holds no certificate"),
    ],
)
async def test_tls_files_that_do_not_go_together_are_the_callers_fault(
    options: dict[str, str], told: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = dict(zip(("cert", "key"), authority.issue("one"), strict=True)) | {"other": authority.issue("two")[1]}
    files["locked"] = tmp_path / "locked.pem"
    files["locked"].write_bytes(locked(files["key"]))
    paths: dict[str, Any] = {name: files[value] for name, value in options.items()}
    with pytest.raises(BadRequest, match=told):
        ConnectOptions("nats://127.0.0.1:1", **paths).arguments("me")


def locked(key: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


def test_tls_options_and_a_plain_websocket_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="use wss://"):
        ConnectOptions("ws://127.0.0.1:1", tls_ca=Authority(tmp_path).ca).arguments("me")


async def test_servers_of_a_cluster_that_become_known_later_are_held_to_tls_and_the_name(tmp_path: Path) -> None:
    """The server that told of the others is gone; of those one has no TLS, one a wrong name, one is right."""
    authority = Authority(tmp_path)
    right, wrong = authority.issue("right", names=["localhost"]), authority.issue("wrong", names=["else.example.org"])
    routes = [free() for _ in range(2)]
    configs = []
    for number, (certificate, key) in enumerate((right, right)):
        configs.append(tmp_path / f"{number}.conf")
        peers = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        configs[-1].write_text(
            f'server_name: n{number}\ntls {{ cert_file: "{certificate}", key_file: "{key}" }}\n'
            f"cluster {{ name: c, listen: 127.0.0.1:{routes[number]}, routes: [{peers}] }}\n"
            "authorization { user: ada, password: S3cret }\n"
        )
    async with NatsServer(config=configs[0]) as first, NatsServer(config=configs[1]) as second:
        url = first.url.replace("nats://127.0.0.1", "tls://ada:S3cret@localhost")
        nc = await connect_replica(ConnectOptions(url, tls_ca=authority.ca))
        back = asyncio.Event()
        nc.on_reconnect(back.set)
        async with asyncio.timeout(60):
            while len(nc.servers) + len(nc.discovered_servers) < 2:
                await asyncio.sleep(0.05)
            async with Listener(INFO % b',"auth_required":true').listening() as plain:
                config = tmp_path / "wrong.conf"
                config.write_text(f'tls {{ cert_file: "{wrong[0]}", key_file: "{wrong[1]}" }}\n')
                async with NatsServer(config=config) as other:
                    places = [f"127.0.0.1:{plain.port}", other.url.partition("://")[2]]
                    await nc._process_info({"connect_urls": places})
                    await first.stop()
                    await back.wait()
        assert nc.connected_url is not None
        assert nc.connected_url.port == int(second.url.rpartition(":")[2])
        assert encrypted(nc)
        assert b"S3cret" not in plain.heard
        await nc.close()


def free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_a_server_that_loses_its_tls_is_not_spoken_to_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After the start it is logged, in sum, and tried on: the server may be mended."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    secure, config = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n', tmp_path / "nats.conf"
    config.write_text(secure)
    server = NatsServer(config=config)
    await server.start()
    nc = await connect_replica(ConnectOptions(server.url, user="ada", password="S3cret", tls_ca=authority.ca))
    back = asyncio.Event()
    nc.on_reconnect(back.set)
    caplog.set_level(logging.INFO)
    await server.stop()
    config.write_text("")
    await server.start()
    async with asyncio.timeout(60):
        while "does not offer TLS" not in caplog.text:
            await asyncio.sleep(0.02)
        assert not back.is_set()
        await server.stop()
        config.write_text(secure)
        await server.start()
        await back.wait()
    assert encrypted(nc)
    assert len([line for line in caplog.messages if "does not offer TLS" in line]) <= 3
    await nc.close()
    await server.stop()
