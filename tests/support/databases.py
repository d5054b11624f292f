"""PostgreSQL databases for tests: emptied and lent again, which costs a tenth of a new one."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg

from dwarf_nats.dev_servers import PostgresServer
from dwarf_nats.store import migrate

T = TypeVar("T")
TEMPLATE = "schema"
KEPT = ("dwarf_schema", "dwarf_compatibility")
"""Tables whose rows belong to the schema."""
MOST_PAGES = 9
"""Pages up to which PostgreSQL plans for an emptied table as for a new one."""
_PLACE = """
select (select array[datallowconn::text, datconnlimit::text] from pg_database where datname = current_database())
  || (select array[count(*)::text] from pg_db_role_setting where setdatabase <> 0)
  || (select array_agg(one::text order by one::text) from dwarf_schema one)
  || (select array_agg(one::text) from dwarf_compatibility one)
  || (select array_agg(concat_ws(' ', relname, reltuples, relacl, reloptions) order by relname)
        from pg_class where relnamespace = 'public'::regnamespace)
"""
_CATALOGS = ("attribute", "class", "constraint", "index", "namespace", "proc", "statistic", "trigger", "type")
_CHANGES = "select " + " || ' ' || ".join(
    f"(select concat(count(*), '/', max(xmin::text::bigint)) from pg_{catalog})" for catalog in _CATALOGS
)
"""Differs once an object was made, altered or dropped, or a table analyzed."""
_TABLES = """
select relname, pg_relation_size(oid) / 8192 as pages
  from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'
"""
_OTHERS = "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()"
_SEQUENCES = "select setval(seqrelid::regclass, seqstart, false) from pg_sequence"


class Databases:
    """Databases with the schema and nothing in it. One at a time has each: `take` it, `give_back` it.

    A database whose schema, settings or statistics a test has changed, or whose tables have grown, is dropped instead.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        self._fingerprint: Any = None

    def take(self, *, unused: bool = False) -> str:
        """The DSN of a database; with `unused`, of one that no test has had."""
        if self._free and not unused:
            return self._server.dsn(self._free.pop())
        return self._server.dsn(_run(self._new(TEMPLATE)))

    def take_without_schema(self) -> str:
        """The DSN of a database without any table; `drop` it."""
        return self._server.dsn(_run(self._new("template1")))

    def give_back(self, dsn: str) -> None:
        """Empty a database, or drop it if emptying it would not make it as it was. Whoever is connected is disconnected."""
        name = dsn.rsplit("/", 1)[1]
        if _run(self._emptied(name)):
            self._free.append(name)
        else:
            self.drop(dsn)

    def drop(self, dsn: str) -> None:
        _run(self._execute(f'drop database if exists "{dsn.rsplit("/", 1)[1]}" with (force)'))

    async def _new(self, template: str) -> str:
        if template == TEMPLATE and self._fingerprint is None:
            await self._make_template()
        name = f"test_{next(self._numbers)}"
        await self._execute(f'create database "{name}" template "{template}"')
        return name

    async def _make_template(self) -> None:
        await self._execute("alter system set autovacuum = off", "select pg_reload_conf()")
        await self._execute(f"create database {TEMPLATE}")
        await migrate.migrate_postgres(self._server.dsn(TEMPLATE))
        connection = await asyncpg.connect(self._server.dsn(TEMPLATE))
        self._fingerprint = await _fingerprint(connection)
        await connection.close()

    async def _emptied(self, name: str) -> bool:
        """True if the database is as new."""
        try:
            connection = await asyncpg.connect(self._server.dsn(name))
        except (asyncpg.PostgresError, OSError):
            return False
        try:
            await connection.execute("set session_replication_role = replica; set default_transaction_read_only = off")
            await connection.fetch(_OTHERS, name)
            if await _fingerprint(connection) != self._fingerprint:
                return False
            tables = await connection.fetch(_TABLES)
            if any(table["pages"] > MOST_PAGES for table in tables):
                return False
            filled = [table["relname"] for table in tables if table["pages"] and table["relname"] not in KEPT]
            await connection.execute("; ".join([_SEQUENCES, *(f"delete from {table}" for table in filled)]))
        except asyncpg.PostgresError:
            return False
        finally:
            await connection.close()
        return True

    async def _execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self._server.dsn())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


async def _fingerprint(connection: asyncpg.Connection[Any]) -> tuple[Any, Any]:
    return await connection.fetchval(_PLACE), await connection.fetchval(_CHANGES)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop of its own, which leaves that of the test alone."""
    results: list[T] = []

    def run() -> None:
        results.append(asyncio.run(work))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (result,) = results
    return result
