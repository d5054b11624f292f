"""The classification of database errors (semantics: database-errors): the value's fault, or the moment's."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dwarf_nats.errors import BadRequest, DwarfError, Internal, Unavailable
from dwarf_nats.ports import DatabaseAway, StatementRefused
from dwarf_nats.store import faults
from dwarf_nats.store.store import SqlStore
from tests.support.stores import look


def postgres_error(state: str) -> asyncpg.PostgresError:
    error: asyncpg.PostgresError = asyncpg.PostgresError.new({"C": state, "M": "so says the server", "S": "ERROR"})
    return error


@pytest.mark.parametrize("state", ["22021", "22P02", "22P05", "22003", "54000", "54001"])
def test_data_errors_and_limits_condemn_the_value(state: str) -> None:
    """Semantics: database-errors; a bad value is a 400, whoever gave it."""
    assert isinstance(faults.of_postgres(postgres_error(state), "db"), BadRequest)


@pytest.mark.parametrize("state", ["23505", "23514", "23503", "44000"])
def test_integrity_errors_condemn_the_value_and_are_no_fault_of_the_caller(state: str) -> None:
    assert isinstance(faults.of_postgres(postgres_error(state), "db"), Internal)


@pytest.mark.parametrize(
    "state",
    [
        "08006", "25006", "25P03", "28000", "28P01", "3D000", "53300", "57P01", "57P02", "57P03", "57P05", "58030",
    ],
)  # fmt: skip
def test_what_a_database_says_of_itself_is_an_outage(state: str) -> None:
    """B6: connection, shutdown, failover to a standby, rights to enter."""
    known = faults.of_postgres(postgres_error(state), "db")
    assert isinstance(known, DatabaseAway)
    assert not isinstance(known, StatementRefused)
    assert "so says the server" in str(known)


@pytest.mark.parametrize(
    "state",
    [
        "55P03", "57014", "40001", "40P01", "42501", "42P01", "42703", "42601", "3F000", "53100", "53200", "0A000", "55000",
        "P0001", "XX000", "XX001", "21000", "F0000", "99999", "",
    ],
)  # fmt: skip
def test_what_is_not_about_the_value_is_waited_for_also_what_nobody_has_thought_of(state: str) -> None:
    """Semantics: database-errors; locks, time-outs, rights and objects that are missing, resources, and any other."""
    assert isinstance(faults.of_postgres(postgres_error(state), "db"), StatementRefused)


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), TimeoutError(), EOFError(), MemoryError(), asyncpg.InterfaceError("closed")]
)
def test_a_connection_that_ends_is_an_outage(error: Exception) -> None:
    assert isinstance(faults.of_postgres(error, "db"), DatabaseAway)


@pytest.mark.parametrize("error", [KeyError("x"), BadRequest("no"), AssertionError()])
def test_what_is_not_the_drivers_stays_what_it_is(error: Exception) -> None:
    assert faults.of_postgres(error, "db") is None
    assert faults.of_sqlite(error, "file") is None


def sqlite_error(work: str, *args: Any) -> Exception:
    """The error of a real statement."""
    connection = sqlite3.connect(":memory:")
    connection.executescript("create table t (a integer primary key, b text not null check (b <> 'no')); ")
    try:
        connection.execute(work, args)
    except Exception as error:
        return error
    finally:
        connection.close()
    raise AssertionError("it was done")


def of_sqlite(error: Exception) -> DwarfError | None:
    return faults.of_sqlite(error, "file")


@pytest.mark.parametrize(
    ("work", "args"),
    [
        ("insert into t values (?, 'x')", (2**70,)),
        ("insert into t values (1, ?)", ("\ud800",)),
        ("insert into t values ('text', 'x')", ()),
        ("select 1 where 'x' like ?", ("%" * 100_000,)),
        ("select zeroblob(9223372036854775)", ()),
        ("select abs(-9223372036854775807 - 1)", ()),
        ("select * from json_each('{')", ()),
    ],
)
def test_sqlite_data_errors_and_limits_condemn_the_value(work: str, args: tuple[Any, ...]) -> None:
    assert isinstance(of_sqlite(sqlite_error(work, *args)), BadRequest)


@pytest.mark.parametrize("work", ["insert into t values (1, null)", "insert into t values (1, 'no')"])
def test_sqlite_integrity_errors_condemn_the_value(work: str) -> None:
    assert isinstance(of_sqlite(sqlite_error(work)), Internal)


@pytest.mark.parametrize("work", ["select * from gone", "select gone from t", "nonsense"])
def test_what_is_missing_in_sqlite_is_waited_for(work: str) -> None:
    assert isinstance(of_sqlite(sqlite_error(work)), StatementRefused)


@pytest.mark.parametrize(
    "name", ["BUSY", "LOCKED", "FULL", "IOERR_WRITE", "READONLY_DBMOVED", "CANTOPEN", "NOTADB", "CORRUPT", "NOMEM"]
)
def test_what_a_sqlite_file_says_of_itself_is_an_outage(name: str) -> None:
    error = sqlite3.DatabaseError("so says the library")
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{name}")
    known = of_sqlite(error)
    assert isinstance(known, DatabaseAway)
    assert not isinstance(known, StatementRefused)


async def test_what_is_no_database_any_more_is_an_outage_for_who_runs(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(b"this is no database\n" * 100)
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        connection.execute("select * from sqlite_master")
    connection.close()
    assert isinstance(of_sqlite(caught.value), DatabaseAway)


async def test_an_outage_is_one_log_line_however_often_it_is_met(
    store: SqlStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Semantics: database-errors; the line says what the database said."""
    with caplog.at_level(logging.WARNING, "dwarf_nats.store"):
        for _ in range(5):
            with pytest.raises(Unavailable, match="gone_away"):
                await look(store, "select * from gone_away")
            with pytest.raises(Unavailable, match="gone_away"):
                await store.database.fetch_by_index("select * from gone_away")
    assert len(caplog.messages) == 1
    assert "gone_away" in caplog.messages[0]


async def test_a_value_that_cannot_be_stored_is_no_outage(store: SqlStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dwarf_nats.store"), pytest.raises(BadRequest, match="cannot store"):
        await look(store, "select * from dwarf_flows where token = $1", "\ud800")
    assert caplog.messages == []
