"""Commands of a cascade, which is everything that follows from a settlement.

The cascade is a generator: it yields a command to the database and is sent the rows. So one text serves both databases,
asynchronous PostgreSQL and SQLite in its thread. All of it belongs to the transaction that settled the group.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dwarf_nats.workflow.status import Status

if TYPE_CHECKING:
    from dwarf_nats.rules.steps import FlowContext, NewFlow, NewStep
    from dwarf_nats.store.database import PostgresSession, Row, SqliteSession, Tx
    from dwarf_nats.store.dialect import Sql

T = TypeVar("T")


@dataclass(slots=True)
class Query:
    """One statement."""

    text: Sql
    args: tuple[Any, ...]


@dataclass(slots=True)
class QueryMany:
    """One statement, once for each row of parameters, in one round trip; all their rows, in this order."""

    text: Sql
    rows: list[tuple[Any, ...]]


@dataclass(slots=True)
class StepInsert:
    """A step to be inserted. `not_before`: when it is due, or 0 if it is `step.delay_us` from now."""

    flow: FlowContext
    step: NewStep
    predecessor_id: int
    status: Status = Status.PENDING
    not_before: int = 0
    changes: str = "{}"
    error: str | None = None
    successor_id: int | None = None


@dataclass(slots=True)
class InsertSteps:
    """Insert steps."""

    steps: list[StepInsert]


@dataclass(slots=True)
class InsertFlows:
    """Insert flows with their entry steps."""

    flows: list[NewFlow]


PROBLEMS = "update dwarf_steps set problems = $1 where step_id = $2 returning step_id"
"""Only of steps that have some: others cost nothing."""
Command = Query | QueryMany | InsertSteps | InsertFlows
Cascade = Generator[Command, "list[Row]", None]


async def queried(tx: Tx, commands: Generator[Command, list[Row], T]) -> T:
    """Run a generator that yields nothing but queries; return its result."""
    try:
        command = next(commands)
        while True:
            assert isinstance(command, Query)
            command = commands.send(await tx.fetch(command.text, *command.args))
    except StopIteration as done:
        result: T = done.value
        return result


async def carried_out(tx: Tx, commands: Generator[Command, list[Row], T]) -> T:
    """Carry out commands as a part of an operation's transaction; return their result."""
    rows: list[Row] | None = None
    try:
        while True:
            command = next(commands) if rows is None else commands.send(rows)
            match command:
                case Query():
                    rows = await tx.fetch(command.text, *command.args)
                case QueryMany():
                    rows = [row for args in command.rows for row in await tx.fetch(command.text, *args)]
                case _:
                    raise TypeError(f"an operation cannot carry out {command!r}")
    except StopIteration as done:
        result: T = done.value
        return result


@dataclass(slots=True)
class Course(Generic[T]):
    """Queries one after the other, each made of what those before have found, as an operation for both databases."""

    queries: Callable[[], Generator[Query | QueryMany, list[Row], T]]
    """Begins them, once for each attempt."""

    async def on_postgres(self, session: PostgresSession) -> T:
        queries = self.queries()
        try:
            query = next(queries)
            while True:
                if isinstance(query, QueryMany):
                    query = queries.send(await session.fetch_many(query.text, query.rows))
                else:
                    query = queries.send(await session.fetch(query.text, *query.args))
        except StopIteration as done:
            result: T = done.value
            return result

    def on_sqlite(self, session: SqliteSession) -> T:
        queries = self.queries()
        try:
            query = next(queries)
            while True:
                each = query.rows if isinstance(query, QueryMany) else [query.args]
                query = queries.send([row for args in each for row in session.fetch(query.text, *args)])
        except StopIteration as done:
            result: T = done.value
            return result
