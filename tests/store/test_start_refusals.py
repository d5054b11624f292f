"""What ends a start and what it waits for (semantics: start-errors): the second may pass by itself."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import sqlite3
import ssl
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import DatabaseAway, Unusable
from dwarf_nats.store import faults, migrate
from dwarf_nats.store.store import SqlStore
from tests.support.stores import look

pytestmark = pytest.mark.slow


def store_on(dsn: str) -> SqlStore:
    return SqlStore(1, dsn, pool=1, clock=SystemClock())


async def refusal(dsn: str, *, migrated: bool = True) -> Unavailable:
    """With what a start on this database ends."""
    store = store_on(dsn)
    with pytest.raises(Unavailable) as caught:
        await store.open("one", migrated=migrated)
    await store.close()
    return caught.value


def _no_folder(path: Path) -> Path:
    return path / "missing" / "dwarf.db"


def _a_folder(path: Path) -> Path:
    (path / "dwarf.db").mkdir()
    return path / "dwarf.db"


def _a_file_as_folder(path: Path) -> Path:
    (path / "file").write_text("")
    return path / "file" / "dwarf.db"


def _no_database(path: Path) -> Path:
    (path / "dwarf.db").write_bytes(b"this is no database\n" * 500)
    return path / "dwarf.db"


def _truncated(path: Path) -> Path:
    with sqlite3.connect(path / "dwarf.db") as connection:
        connection.execute("create table t as select randomblob(9000) as b")
    whole = (path / "dwarf.db").read_bytes()
    (path / "dwarf.db").write_bytes(b"SQLite format 3\0" + os.urandom(len(whole) - 16))
    return path / "dwarf.db"


def _read_only_file(path: Path) -> Path:
    (path / "dwarf.db").touch(0o444)
    return path / "dwarf.db"


def _read_only_folder(path: Path) -> Path:
    (path / "closed").mkdir(0o555)
    return path / "closed" / "dwarf.db"


@pytest.mark.parametrize("migrated", [True, False])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_no_folder, "there is no folder .*missing"),
        (_a_folder, "it is a folder"),
        (_a_file_as_folder, "there is no folder"),
        (_no_database, "file is not a database"),
        (_truncated, "malformed|not a database|unsupported file format"),
        (lambda path: path / ("n" * 300), "too long"),
    ],
)
async def test_a_sqlite_file_that_cannot_be_used_ends_the_start(
    tmp_path: Path, make: Callable[[Path], Path], words: str, migrated: bool
) -> None:
    error = await refusal(f"sqlite:///{make(tmp_path)}", migrated=migrated)
    assert isinstance(error, Unusable)
    assert error.code == 503
    assert re.search(words, str(error)), str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="ROOT MAY WRITE EVERYWHERE: run the tests as another user to try rights")
async def test_a_folder_or_file_that_may_not_be_written_ends_the_start(tmp_path: Path) -> None:
    for path in (_read_only_file(tmp_path), _read_only_folder(tmp_path)):
        assert isinstance(await refusal(f"sqlite:///{path}"), Unusable)


async def test_a_file_in_use_is_refused_at_once_and_says_by_whom(empty_sqlite_dsn: str) -> None:
    one = store_on(empty_sqlite_dsn)
    await one.open("one", migrated=True)
    error = await refusal(empty_sqlite_dsn)
    await one.close()
    assert isinstance(error, Unusable)
    assert f"in use by another replica (process {os.getpid()})" in str(error)


async def test_a_file_that_another_program_has_locked_is_waited_for(empty_sqlite_dsn: str) -> None:
    with sqlite3.connect(empty_sqlite_dsn.removeprefix("sqlite:///"), isolation_level=None) as other:
        other.execute("begin exclusive")
        error = await refusal(empty_sqlite_dsn)
        assert not isinstance(error, Unusable)
        assert "locked" in str(error)
    other.close()


async def test_a_schema_of_a_later_version_ends_the_start(empty_dsn: str) -> None:
    store = store_on(empty_dsn)
    await store.open("one", migrated=True)
    await look(store, "update dwarf_schema set version_num = '9999'")
    await store.close()
    for migrated in (True, False):
        error = await refusal(empty_dsn, migrated=migrated)
        assert isinstance(error, Unusable)
        assert "of a later version than this one: upgrade this replica" in str(error)


async def test_an_old_schema_is_waited_for_by_who_may_not_migrate(empty_dsn: str) -> None:
    """A job of the deployment migrates it meanwhile."""
    assert not isinstance(await refusal(empty_dsn, migrated=False), Unusable)


@pytest.mark.slow
@pytest.mark.parametrize("migrated", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda dsn: dsn + "_missing", 'database "test_.*_missing" does not exist'),
        (lambda dsn: dsn.replace("postgres@", "nobody_here@"), 'role "nobody_here" does not exist'),
        (lambda dsn: dsn + "?sslmode=require", "rejected SSL upgrade"),
        (lambda dsn: dsn + "?options=-c%20no_such_setting%3D1", "no_such_setting"),
        (lambda dsn: dsn + "?options=-c%20work_mem%3Dlots", "work_mem"),
    ],
)
async def test_what_postgresql_refuses_for_good_ends_the_start(
    empty_pg_dsn: str, change: Callable[[str], str], words: str, migrated: bool
) -> None:
    error = await refusal(change(empty_pg_dsn), migrated=migrated)
    assert isinstance(error, Unusable)
    assert re.search(words, str(error)), str(error)


@pytest.mark.slow
@pytest.mark.parametrize("migrated", [True, False])
async def test_rights_that_are_missing_end_the_start(empty_pg_dsn: str, migrated: bool) -> None:
    role = empty_pg_dsn.rsplit("/", 1)[1] + "_reader"
    if not migrated:
        store = store_on(empty_pg_dsn)
        await store.open("one", migrated=True)
        await store.close()
    admin = await asyncpg.connect(empty_pg_dsn)
    await admin.execute(f"create role {role} login")
    try:
        error = await refusal(empty_pg_dsn.replace("postgres@", f"{role}@"), migrated=migrated)
        assert isinstance(error, Unusable)
        assert "permission denied" in str(error)
    finally:
        await admin.execute(f"drop role {role}")
        await admin.close()


@pytest.mark.slow
async def test_what_may_pass_by_itself_is_waited_for(empty_pg_dsn: str) -> None:
    name = empty_pg_dsn.rsplit("/", 1)[1]
    admin = await asyncpg.connect(empty_pg_dsn.rsplit("/", 1)[0] + "/postgres")
    try:
        for close, reopen in (
            (f"alter database {name} connection limit 0", f"alter database {name} connection limit -1"),
            (f"alter database {name} allow_connections false", f"alter database {name} allow_connections true"),
        ):
            role = f"{name}_app"
            await admin.execute(f"create role {role} login")
            await admin.execute(close)
            error = await refusal(empty_pg_dsn.replace("postgres@", f"{role}@"))
            await admin.execute(reopen)
            await admin.execute(f"drop role {role}")
            assert not isinstance(error, Unusable), error
    finally:
        await admin.close()
    for dsn in ("postgresql://u@127.0.0.1:1/d", "postgresql://u@host.invalid/d", "postgresql://u@/d?host=/nowhere"):
        assert not isinstance(await refusal(dsn), Unusable)


def _said(state: str, words: str = "so says the server") -> asyncpg.PostgresError:
    error: asyncpg.PostgresError = asyncpg.PostgresError.new({"C": state, "M": words, "S": "FATAL"})
    return error


@pytest.mark.parametrize(
    ("error", "grave"),
    [
        (_said("28P01"), True),  # wrong password
        (_said("28000"), True),  # pg_hba.conf
        (_said("3D000"), True),
        (_said("42501"), True),
        (_said("08P01", "unsupported startup parameter: x"), True),
        (_said("08P01", "server login has been failing"), False),
        (_said("57P03"), False),  # starting up
        (_said("53300"), False),  # too many connections
        (_said("25006"), False),  # a standby that is about to be promoted
        (_said("55P03"), False),
        (_said("53100"), False),
        (ssl.SSLCertVerificationError("self-signed certificate"), True),
        (asyncpg.InterfaceError("unsupported authentication method"), True),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (PermissionError(errno.EACCES, "no"), True),
        (OSError(errno.ENOSPC, "full"), False),
    ],
)
def test_which_errors_of_a_start_need_a_person(error: Exception, grave: bool) -> None:
    told = DatabaseAway("it is away")
    told.__cause__ = error
    assert faults.needs_a_person(told) is grave


@pytest.mark.slow
async def test_a_start_that_waits_for_the_migration_lock_says_who_has_it(
    empty_pg_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Semantics: start-errors; and it can be stopped meanwhile."""
    other = await asyncpg.connect(empty_pg_dsn, server_settings={"application_name": "somebody"})
    await other.execute(f"select pg_advisory_lock({migrate.MIGRATION_LOCK_ID})")
    store = store_on(empty_pg_dsn)
    with caplog.at_level(logging.INFO, "dwarf_nats.store"):
        opening = asyncio.create_task(store.open("one", migrated=True))
        async with asyncio.timeout(20):
            while not caplog.messages:
                await asyncio.sleep(0)
        pid = await other.fetchval("select pg_backend_pid()")
        assert f"waiting for its migration lock, held by process {pid} (user postgres, somebody" in caplog.messages[0]
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        opening = asyncio.create_task(store.open("one", migrated=True))
        await other.close()
        async with asyncio.timeout(20):
            await opening
    await store.close()


@pytest.mark.slow
async def test_a_start_on_a_current_schema_needs_no_migration_lock(empty_pg_dsn: str) -> None:
    """Whoever stands still with the lock in hand holds nobody up."""
    one, two = store_on(empty_pg_dsn), store_on(empty_pg_dsn)
    await one.open("one", migrated=True)
    other = await asyncpg.connect(empty_pg_dsn)
    await other.execute(f"select pg_advisory_lock({migrate.MIGRATION_LOCK_ID})")
    async with asyncio.timeout(20):
        await two.open("two", migrated=True)
    await two.close()
    await one.close()
    await other.close()
