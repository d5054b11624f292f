"""Where the connection goes and as whom (wire section 6)."""

from __future__ import annotations

import json
from pathlib import Path

import nats
import pytest

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, TooLarge, Unavailable
from dwarf_nats.sdk.connection import connect
from dwarf_nats.sdk.request_reply import check_size, message_size
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.wire.refusals import decode_error
from tests.support.workers import refuse


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
            await connect(wrong, "tester", retry=True)
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
        payload = b"x" * (limit - message_size(b"", headers))
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
    error = decode_error(message.headers, message.data)
    assert error is not None
    assert (error.code, error.message) == (409, "first line")
    assert error.details == {"flow_key": "k", "prev_state": {"a": 1}}
