"""PostgreSQL DSNs: what is read of them, and that whoever connects reads the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dwarf_nats.clock import SystemClock
from dwarf_nats.errors import BadRequest
from dwarf_nats.store import dsn as dsns
from dwarf_nats.store.store import SqlStore
from tests.support.stores import look


@pytest.mark.parametrize(
    ("dsn", "wanted"),
    [
        ("postgresql://h/d", {"host": ["h"], "port": [5432], "database": "d"}),
        ("postgres://u:p@h:1/d", {"host": ["h"], "port": [1], "user": "u", "password": "p", "database": "d"}),
        ("postgresql+asyncpg://u@h/d", {"host": ["h"], "port": [5432], "user": "u", "database": "d"}),
        ("postgresql://u%40x:p%2F%3F%23@h/d%20e", {"user": "u@x", "password": "p/?#", "database": "d e"}),
        ("postgresql://u:p@ss:w@h/d", {"user": "u", "password": "p@ss:w", "host": ["h"]}),
        ("postgresql://a:1,b:2,c/d", {"host": ["a", "b", "c"], "port": [1, 2, 5432]}),
        ("postgresql://[::1]:7,[fe80::1]/d", {"host": ["::1", "fe80::1"], "port": [7, 5432]}),
        ("postgresql://%2Fvar%2Frun:7/d", {"host": ["/var/run"], "port": [7]}),
        ("postgresql:///d?host=/var/run&port=7", {"host": ["/var/run"], "port": [7], "database": "d"}),
        ("postgresql:///?host=a,b&port=1,2&dbname=d&user=u&password=p%26q", {
            "host": ["a", "b"], "port": [1, 2], "database": "d", "user": "u", "password": "p&q"}),
        ("postgresql://h/d?target_session_attrs=read-write", {"target_session_attrs": "read-write"}),
        ("postgresql://h/d?sslmode=require", {"ssl": "require"}),
        ("postgresql://h/d?ssl=true", {"ssl": "require"}),
        ("postgresql://h/d?options=endpoint%3Dcool", {"server_settings": {"options": "endpoint=cool"}}),
    ],
)  # fmt: skip
def test_what_a_dsn_says_is_what_the_driver_is_told(dsn: str, wanted: dict[str, Any]) -> None:
    arguments = dsns.read(dsn).arguments
    assert {name: arguments.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("query", "settings"),
    [
        ("application_name=orders", {"application_name": "orders"}),
        ("fallback_application_name=orders", {"application_name": "orders"}),
        ("options=-c%20search_path%3Da%5C%20b%20-cwork_mem%3D8MB%20--lock-timeout%3D5", {
            "search_path": "a b", "work_mem": "8MB", "lock_timeout": "5"}),
        ("client_encoding=utf8&channel_binding=prefer&gssencmode=disable&sslsni=1", {}),
    ],
)  # fmt: skip
def test_what_belongs_to_the_session_is_set_in_it(query: str, settings: dict[str, str]) -> None:
    """Nothing of it is a start-up parameter: a connection pooler would refuse that."""
    target = dsns.read(f"postgresql://h/d?{query}")
    assert target.settings == settings
    assert "server_settings" not in target.arguments


def test_times_are_seconds_and_zero_is_no_limit() -> None:
    assert dsns.read("postgresql://h/d?connect_timeout=3").timeout == 3
    assert dsns.read("postgresql://h/d?connect_timeout=0").timeout > 10**6


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("postgresql://h/d?sslmod=require", "no parameter sslmod: did you mean sslmode"),
        (
            "postgresql://h/d?statement_timeout=5",
            "no parameter statement_timeout.*options=-c%20statement_timeout%3Dvalue",
        ),
        ("postgresql://h/d?pgbouncer=true", "no parameter pgbouncer"),
        ("postgresql://h/d?sslmode", "sslmode has no value"),
        ("postgresql://h/d?sslmode=on", "sslmode must be one of disable, allow"),
        ("postgresql://h/d?target_session_attrs=master", "target_session_attrs must be one of any"),
        ("postgresql://h/d?channel_binding=require", "channel_binding can only be disable or prefer"),
        ("postgresql://h/d?connect_timeout=soon", "connect_timeout must be a whole number"),
        ("postgresql://h/d?sslrootcert=/nowhere/ca.pem", "file of sslrootcert cannot be read: /nowhere/ca.pem"),
        ("postgresql://h/d?passfile=/nowhere/pass", "file of passfile cannot be read"),
        ("postgresql://h:99999/d", "a port must be a number from 1 to 65535"),
        ("postgresql://a,b/d?port=1,2,3", "2 hosts and 3 ports"),
        ("postgresql://a/d?host=b", "names hosts twice"),
        ("postgresql://h/d?options=-c%20nonsense", "options cannot be read"),
        ("postgresql://h/%FF", "must be UTF-8"),
        ("postgresql://h/d?sslnegotiation=direct", "needs sslmode=require"),
    ],
)
def test_what_is_wrong_in_a_dsn_is_named(dsn: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        dsns.read(dsn)
    with pytest.raises(BadRequest, match=words):
        SqlStore(1, dsn, pool=1, clock=SystemClock())


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:hush/hush@h/d", "postgresql://u:hush?hush=1@h/d", "postgresql://u@hush:h/d"]
)
def test_a_password_that_should_have_been_escaped_is_not_told(dsn: str) -> None:
    with pytest.raises(BadRequest, match="written as %XX") as caught:
        dsns.read(dsn)
    assert "hush" not in str(caught.value).replace("hush:***", "")


def test_a_dsn_of_sqlite_has_no_parameters() -> None:
    with pytest.raises(BadRequest, match="no parameters"):
        SqlStore(1, "sqlite:///dwarf.db?mode=ro", pool=1, clock=SystemClock())


def _with(pg_dsn: str, tail: str = "", host: str = "", scheme: str = "postgresql") -> str:
    """The DSN of a test's database, written otherwise."""
    address, name = pg_dsn.removeprefix("postgresql://").split("/")
    user, place = address.split("@")
    return f"{scheme}://{user}@{host or place}/{name}{tail}"


@pytest.mark.slow
@pytest.mark.parametrize("migrated", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda dsn: _with(dsn, "?sslmode=disable"),
        lambda dsn: _with(dsn, "?sslmode=prefer&connect_timeout=20"),
        lambda dsn: _with(dsn, "?application_name=orders&target_session_attrs=read-write"),
        lambda dsn: _with(dsn, "?options=-c%20search_path%3Dpublic"),
        lambda dsn: _with(dsn, scheme="postgresql+asyncpg"),
        lambda dsn: _with(dsn, scheme="postgres"),
        lambda dsn: _with(dsn, host=f"127.0.0.1:1,{dsn.split('@')[1].split('/')[0]}"),
        lambda dsn: "postgresql:///?host=127.0.0.1&user=postgres&port={}&dbname={}".format(
            *dsn.rsplit(":", 1)[1].split("/")
        ),
    ],
)  # fmt: skip
async def test_one_dsn_serves_the_engine_and_the_migrations(pg_dsn: str, change: Any, migrated: bool) -> None:
    store = SqlStore(1, change(pg_dsn), pool=2, clock=SystemClock())
    if not migrated:
        first = SqlStore(1, pg_dsn, pool=1, clock=SystemClock())
        await first.open("first", migrated=True)
        await first.close()
    await store.open("one", migrated=migrated)
    try:
        name = "orders" if "orders" in store.dsn else "dwarf-nats"
        assert await look(store, "select current_setting('application_name')") == [(name,)]
        rows = await store.database.fetch_by_index("select current_setting('application_name'), current_setting('jit')")
        assert [tuple(row) for row in rows] == [(name, "off")]
    finally:
        await store.close()


@pytest.mark.slow
async def test_a_schema_of_ones_own_is_where_everything_goes(empty_pg_dsn: str) -> None:
    """`options` holds for the migrations as well."""
    admin = await asyncpg.connect(empty_pg_dsn)
    await admin.execute("create schema theirs")
    store = SqlStore(1, _with(empty_pg_dsn, "?options=-csearch_path%3Dtheirs"), pool=2, clock=SystemClock())
    await store.open("one", migrated=True)
    try:
        tables = await admin.fetch("select distinct schemaname from pg_tables where tablename like 'dwarf%'")
        assert [row[0] for row in tables] == ["theirs"]
    finally:
        await store.close()
        await admin.close()


@pytest.mark.slow
async def test_a_passwords_file_and_a_password_of_any_characters(pg_dsn: str, tmp_path: Path) -> None:
    admin = await asyncpg.connect(pg_dsn)
    passfile = tmp_path / "pass"
    passfile.write_text("*:*:*:*:x\n")
    passfile.chmod(0o600)
    try:
        for tail, secret in ((f"?passfile={passfile}", ""), ("", ":p%40%2F%3F%3A%25%20%C3%A9")):
            store = SqlStore(1, pg_dsn.replace("postgres@", f"postgres{secret}@") + tail, pool=1, clock=SystemClock())
            await store.open("one", migrated=True)
            await store.close()
    finally:
        await admin.close()
