"""Health: over NATS every replica for itself, over HTTP one; ready while it can serve, live while it works at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from dwarf_nats import __version__, probes
from dwarf_nats.cli.main import app
from dwarf_nats.dev_servers import NatsServer, PostgresServer
from dwarf_nats.engine import Engine
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.sdk import Client
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings
from tests.support.caller import WAIT, Caller, conforms, connected, settings, take


async def ask(port: int, path: str = probes.READY) -> tuple[int, dict[str, Any]]:
    """A probe, as an orchestrator sends it."""
    code, body = await asyncio.to_thread(probes.ask, f"http://127.0.0.1:{port}{path}", WAIT)
    return code, json.loads(body)


async def until(port: int, wanted: Callable[[int, dict[str, Any]], bool], path: str = probes.READY) -> dict[str, Any]:
    async with asyncio.timeout(WAIT):
        while True:
            code, told = await ask(port, path)
            if wanted(code, told):
                return conforms("health_reply", told)  # type: ignore[no-any-return]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def probed(nats_server: NatsServer, sqlite_dsn: str, prefix: str, free_port: int) -> ServerSettings:
    return settings(nats_server.url, sqlite_dsn, prefix, health_port=free_port)


@pytest.fixture
async def engine(probed: ServerSettings) -> AsyncIterator[Engine]:
    """Of a replica with a health port."""
    async with replica(probed) as one:
        yield one


def raw(port: int, request: bytes, end: bool = False) -> Any:
    """What is answered to bytes as they are."""

    async def talk() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        if end:
            writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), WAIT)
        writer.close()
        return answer

    return talk()


# -- over NATS


@pytest.mark.slow
async def test_every_replica_answers_for_itself(nats_server: NatsServer, pg_dsn: str, prefix: str) -> None:
    async with (
        connected(nats_server.url) as client,
        replica(settings(nats_server.url, pg_dsn, prefix)),
        replica(settings(nats_server.url, pg_dsn, prefix)),
        Client(nc=client, prefix=prefix) as sdk,
    ):
        found = await sdk.health(wait=WAIT)
        assert [(one.live, one.ready, one.bus, one.version) for one in found] == [(True, True, True, __version__)] * 2
        assert len({one.replica for one in found}) == 2
        assert [(shard.shard, shard.ready) for shard in found[0].shards] == [(1, True)]
        caller = Caller(client, prefix)
        for one in found:
            message = await caller.raw(f"health.{one.replica}", {})
            told = conforms("health_reply", json.loads(message.data))
            assert told["replica"] == one.replica
            assert "reason" not in told


async def test_a_request_for_health_has_nothing_to_say(caller: Caller) -> None:
    for body in (b'{"shard": 1}', b"[]", b"x", b" " * 2_000, b'"' + b"x" * 5_000 + b'"'):
        message = await caller.raw("health", body)
        assert (message.headers or {}).get("Nats-Service-Error-Code") == "400", body
        conforms("error_reply", json.loads(message.data))
    assert (await caller.raw("health")).headers is None
    await caller.client.publish(f"{caller.prefix}.health", b"")  # nobody to answer
    assert (await caller.raw("health")).headers is None


async def test_without_a_replica_there_is_no_health(nats_server: NatsServer, prefix: str) -> None:
    async with Client(nats_server.url, prefix=prefix) as client:
        with pytest.raises(Unavailable, match="no dwarf-nats replica answers"):
            await client.health()


# -- over HTTP


async def test_probes_of_a_replica_that_is_well(engine: Engine, free_port: int) -> None:
    assert engine.ready
    for path in ("/livez", "/readyz", "/healthz", "/readyz?verbose"):
        code, told = await ask(free_port, path)
        assert (code, told["ready"], told["live"], told["bus"]) == (200, True, True, True)
        conforms("health_reply", told)
    head = await raw(free_port, b"HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: 0" not in head


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /readyz HTTP/1.1\r\n\r\n", b"405"),
        (b"DELETE /readyz HTTP/1.1\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /readyz/../x HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /\xff HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /readyz\r\n\r\n", b"400"),
        (b"GET /readyz HTTP/2.0\r\n\r\n", b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /readyz HTTP/1.1\r\nX: " + b"x" * 5_000 + b"\r\n\r\n", b"431"),
        (b"x" * 20_000, b"431"),
    ],
)
async def test_other_requests_are_refused(engine: Engine, free_port: int, request_: bytes, status: bytes) -> None:
    answer = await raw(free_port, request_)
    assert answer.split(b" ")[1] == status
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
    assert (await ask(free_port))[0] == 200
    assert engine.ready


async def test_one_who_says_nothing_holds_up_nobody(engine: Engine, free_port: int) -> None:
    """And there are only so many of them."""
    silent = [await asyncio.open_connection("127.0.0.1", free_port) for _ in range(probes.MAX_CONNECTIONS)]
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await raw(free_port, b"GET /livez HTTP/1.1\r\n\r\n")
    assert answer == b""
    for reader, writer in silent[:10]:
        writer.close()
        await reader.read()
    assert await raw(free_port, b"GET /livez HTTP/1.1\r\n\r\n")
    assert await raw(free_port, b"GET /liv", end=True) == b""
    for _, writer in silent:
        writer.close()
    assert engine.ready


async def test_who_says_nothing_is_not_waited_for_for_ever(
    engine: Engine, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "HEAD_SECONDS", 0.01)
    assert (await raw(free_port, b"GET /livez HTTP/1.1\r\n")).startswith(b"HTTP/1.1 408 ")
    assert engine.ready


async def test_a_port_in_use_is_a_clear_error(probed: ServerSettings, engine: Engine) -> None:
    assert engine.ready
    with pytest.raises(BadRequest, match=r"no health port 127\.0\.0\.1:\d+: .*in use.*--health-port"):
        async with replica(probed):
            pass
    with pytest.raises(BadRequest, match="no health port 192.0.2.1"):
        async with probes.ProbeServer("192.0.2.1", 0, lambda: probes.Report(True, True, b"")):
            pass


# -- what is not well


async def test_nats_away_and_back(sqlite_dsn: str, prefix: str, free_port: int) -> None:
    async with NatsServer() as server, replica(settings(server.url, sqlite_dsn, prefix, health_port=free_port)):
        await until(free_port, lambda code, _: code == 200)
        await server.kill()
        told = await until(free_port, lambda code, _: code == 503)
        assert (told["live"], told["bus"], told["reason"]) == (True, False, "NATS is away")
        assert (await ask(free_port, "/livez"))[0] == 200
        await server.restart()
        assert "reason" not in await until(free_port, lambda code, _: code == 200)


@pytest.mark.slow
async def test_a_database_away_and_back(nats_server: NatsServer, prefix: str, free_port: int) -> None:
    """Over HTTP and over NATS; told by the pulse, not by a query of the probe."""
    async with PostgresServer(fast=True) as server, connected(nats_server.url) as client:
        dsn = await server.create_database("health")
        more = {"health_port": free_port, "replica_timeout_ms": 1_000}
        async with replica(settings(nats_server.url, dsn, prefix, **more)):
            await until(free_port, lambda code, _: code == 200)
            await server.kill()
            told = await until(free_port, lambda code, _: code == 503)
            (shard,) = told["shards"]
            assert (told["live"], told["bus"], shard["ready"]) == (True, True, False)
            assert told["reason"] == f"shard 1: {shard['reason']}"
            over_nats = json.loads((await Caller(client, prefix).raw("health")).data)
            assert (over_nats["ready"], over_nats["shards"][0]["ready"]) == (False, False)
            await server.restart()
            await until(free_port, lambda code, _: code == 200)


async def test_at_its_start_it_says_what_it_waits_for(sqlite_dsn: str, prefix: str, free_port: int) -> None:
    server = NatsServer()
    await server.start()
    await server.kill()
    waiting = settings(server.url, sqlite_dsn, prefix, health_port=free_port)
    waiting.wait_for_servers = True
    told: dict[str, Any] = {}
    here = asyncio.Event()

    async def run() -> None:
        async with replica(waiting):
            here.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    async with asyncio.timeout(WAIT):
        while not told:
            with contextlib.suppress(OSError):
                code, told = await ask(free_port)
        assert (code, told["ready"], told["live"], told["reason"]) == (503, False, True, "starting; NATS is away")
        assert (await ask(free_port, "/livez"))[0] == 200
        await server.restart()
        await here.wait()
        assert (await ask(free_port))[0] == 200
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await server.stop()


async def test_while_it_drains_it_is_not_ready(
    nats_server: NatsServer, sqlite_dsn: str, prefix: str, free_port: int
) -> None:
    """B3: and says so to the last, over NATS too."""
    end = asyncio.Event()
    ready = asyncio.Event()
    draining = settings(nats_server.url, sqlite_dsn, prefix, health_port=free_port, drain_ms=60_000)

    async def run() -> None:
        async with replica(draining):
            ready.set()
            await end.wait()

    async with connected(nats_server.url) as client, asyncio.timeout(WAIT):
        caller = Caller(client, prefix)
        asked = await caller.holds("slow")
        task = asyncio.create_task(run())
        await ready.wait()
        await caller.ok("flow.create_task", task="slow", start=True)
        call = await take(asked)
        end.set()
        told = await until(free_port, lambda code, _: code == 503)
        assert (told["live"], told["reason"].split(":")[0]) == (True, "draining")
        assert json.loads((await caller.raw("health")).data)["ready"] is False
        await caller.answer(call)
        await task
    with pytest.raises(OSError):
        await ask(free_port)


@pytest.mark.parametrize("job", ["pulse", "reaper", "committer", "fetcher"])
async def test_a_job_that_has_ended_is_the_end_of_liveness(engine: Engine, free_port: int, job: str) -> None:
    """Which is a defect that only a restart helps against."""
    jobs = [*engine.shards[1].jobs, engine.replica.fetcher._job]
    (victim,) = [one for one in jobs if one is not None and job in one.get_name()]
    victim.cancel()
    await asyncio.gather(victim, return_exceptions=True)
    code, told = await ask(free_port, "/livez")
    assert (code, told["live"], told["ready"]) == (503, False, False)
    assert f"the job dwarf-{job}" in told["reason"]


async def test_a_loop_that_stands_still_answers_no_probe(engine: Engine, free_port: int) -> None:
    """The probe's own time limit ends it."""
    found: list[BaseException] = []

    def probe() -> None:
        try:
            probes.ask(f"http://127.0.0.1:{free_port}/livez", 0.2)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=probe)
    thread.start()
    thread.join()  # the event loop stands still
    assert isinstance(found[0], OSError)
    assert (await ask(free_port, "/livez"))[0] == 200
    assert engine.ready


# -- the command


def command(*arguments: str) -> Any:
    return asyncio.to_thread(CliRunner().invoke, app, ["health", *arguments])


@pytest.mark.slow
async def test_the_command_tells_by_its_exit_code(
    nats_server: NatsServer, engine: Engine, free_port: int, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nats = ("--nats", nats_server.url, "--prefix", prefix)
    port = ("--port", str(free_port))
    for arguments in (nats, (*nats, "--live"), port, (*port, "--live"), ("--url", f"127.0.0.1:{free_port}/readyz")):
        result = await command(*arguments)
        assert (result.exit_code, "ready" in result.stdout) == (0, True), (arguments, result.output)
    (told,) = json.loads((await command(*port, "--json")).stdout)["replicas"]
    assert told["ready"] is True

    availability = engine.shards[1].availability
    monkeypatch.setattr(availability, "report_answer", lambda: None)  # the next poll or heartbeat would find it there
    availability.report_away("the database is away")
    for arguments in (nats, port):
        result = await command(*arguments)
        assert (result.exit_code, "the database is away" in result.stdout) == (1, True), result.output
        assert (await command(*arguments, "--live")).exit_code == 0


async def test_the_command_where_nobody_answers(nats_server: NatsServer, free_port: int, prefix: str) -> None:
    for arguments in (
        ("--nats", nats_server.url, "--prefix", prefix),
        ("--port", str(free_port)),
        ("--url", f"http://127.0.0.1:{free_port}/x"),
        ("--url", "http://"),
        ("--url", nats_server.url.replace("nats://", "http://")),
    ):
        result = await command(*arguments)
        assert result.exit_code == 1, arguments
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
