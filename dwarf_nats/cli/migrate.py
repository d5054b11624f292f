"""`dwarf-nats migrate`: the schema of the databases."""

from __future__ import annotations

from typing import Annotated

import typer

from dwarf_nats.cli import logs
from dwarf_nats.cli.command import command
from dwarf_nats.cli.options import Dsns, given_dsns
from dwarf_nats.cli.output import Output, table


def register(app: typer.Typer) -> None:
    command(
        app,
        "migrate",
        short="Bring databases to the current schema.",
        example="dwarf-nats migrate --dsn postgresql://dwarf@db/dwarf --check",
    )(migrate)


async def migrate(
    out: Output,
    dsn: Dsns = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 if a schema is not current.")
    ] = False,
) -> None:
    """Bring databases to the current schema; forward only, one after the other."""
    from dwarf_nats.library import check_dsns
    from dwarf_nats.store.revisions import HEAD, is_later

    dsns = given_dsns(dsn)
    check_dsns(dsns)  # before any of them is changed
    logs.tell_warnings("dwarf_nats.store")
    found = [(shard, await _revision(one, check)) for shard, one in enumerate(dsns, 1)]

    def place(revision: str | None) -> str:
        return "current" if revision == HEAD else "of a later version" if is_later(revision) else "behind"

    rows = [(str(shard), revision or "empty", place(revision)) for shard, revision in found]
    reply = [{"shard": shard, "revision": revision, "current": revision == HEAD} for shard, revision in found]
    out.show({"head": HEAD, "databases": reply}, table(("database", "revision", f"newest is {HEAD}"), rows))
    if any(revision != HEAD for _, revision in found):
        raise typer.Exit(1)


async def _revision(dsn: str, check: bool) -> str | None:
    """The revision of a database, upgraded first unless `check`."""
    from dwarf_nats.clock import SystemClock
    from dwarf_nats.store import migrate as schema
    from dwarf_nats.store.sqlite import Sqlite
    from dwarf_nats.store.store import open_database

    database = open_database(dsn, 1, SystemClock())
    database.outages.quiet = True  # the refusal says it
    if not isinstance(database, Sqlite):
        if not check:
            await schema.migrate_postgres(dsn)
        return await schema.revision_postgres(dsn)
    if check and database.is_missing:
        return None  # looking makes no file
    await database.open()
    try:
        if not check:
            await schema.migrate_sqlite(database)
        return await schema.revision_sqlite(database)
    finally:
        await database.close()
