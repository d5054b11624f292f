"""One shard: a database and the ports to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.ports import Unusable
from dwarf_nats.redact import redacted_url
from dwarf_nats.store.dsn import is_postgres
from dwarf_nats.store.faults import needs_a_person, one_line, root_of
from dwarf_nats.store.parts.audit import SqlAudit
from dwarf_nats.store.parts.breakers import SqlBreakers
from dwarf_nats.store.parts.bulk import SqlBulk
from dwarf_nats.store.parts.claims import SqlClaims
from dwarf_nats.store.parts.control import SqlControl
from dwarf_nats.store.parts.definitions import SqlDefinitions
from dwarf_nats.store.parts.deployment import SqlDeployment
from dwarf_nats.store.parts.events import SqlEvents
from dwarf_nats.store.parts.explanations import SqlExplanations
from dwarf_nats.store.parts.flows import SqlFlows
from dwarf_nats.store.parts.graphs import SqlGraphs
from dwarf_nats.store.parts.histories import SqlHistories
from dwarf_nats.store.parts.holds import SqlHolds
from dwarf_nats.store.parts.integrity import SqlIntegrity
from dwarf_nats.store.parts.keys import SqlKeys
from dwarf_nats.store.parts.limits import SqlLimits
from dwarf_nats.store.parts.outbox import SqlOutbox
from dwarf_nats.store.parts.received import SqlReceiving
from dwarf_nats.store.parts.replicas import SqlReplicas
from dwarf_nats.store.parts.retention import SqlRetention
from dwarf_nats.store.parts.schedules import SqlSchedules
from dwarf_nats.store.parts.statistics import SqlStatistics
from dwarf_nats.store.parts.steps import SqlSteps
from dwarf_nats.store.postgres import Postgres
from dwarf_nats.store.sqlite import Sqlite
from dwarf_nats.store.statements.ids import next_ids

if TYPE_CHECKING:
    from dwarf_nats.ports import Clock


def open_database(dsn: str, pool: int, clock: Clock) -> Postgres | Sqlite:
    """The database of a DSN: `postgresql://…`, `sqlite:///path`, or `sqlite://` for one in memory."""
    scheme = dsn.split("://", 1)[0]
    if is_postgres(dsn):
        return Postgres(dsn, pool)
    if scheme == "sqlite" and "://" in dsn:
        path = dsn.split("://", 1)[1]
        if "?" in path:
            raise BadRequest(f"the DSN {redacted_url(dsn)} is not understood: one of SQLite has no parameters")
        return Sqlite(path[1:] if path.startswith("/") else path, clock)
    raise BadRequest(f"DSN {redacted_url(dsn)!r} is not understood: use postgresql://user@host/name or sqlite:///path")


class SqlStore:
    """One shard on PostgreSQL or SQLite; implements `ports.Store`. `database`: one that is made already, of that DSN."""

    def __init__(
        self, shard: int, dsn: str, *, pool: int, clock: Clock, database: Postgres | Sqlite | None = None
    ) -> None:
        self.shard = shard
        self.dsn = dsn
        self.database = open_database(dsn, pool, clock) if database is None else database
        self.label = self.database.label
        self.replicas = SqlReplicas(shard, self.database)
        self.steps = SqlSteps(self.database, self.replicas)
        self.flows = SqlFlows(shard, self.database)
        self.histories = SqlHistories(shard, self.database)
        self.explanations = SqlExplanations(self.database)
        self.control = SqlControl(shard, self.database)
        self.bulk = SqlBulk(shard, self.database)
        self.retention = SqlRetention(self.database)
        self.graphs = SqlGraphs(shard, self.database)
        self.breakers = SqlBreakers(self.database)
        self.integrity = SqlIntegrity(self.database)
        self.deployment = SqlDeployment(shard, self.database)
        self.keys = SqlKeys(self.database)
        self.limits = SqlLimits(self.database)
        self.events = SqlEvents(self.database)
        self.audit = SqlAudit(self.database)
        self.statistics = SqlStatistics(self.database)
        self.schedules = SqlSchedules(self.database)
        self.definitions = SqlDefinitions(self.database)
        self.holds = SqlHolds(self.database, self.replicas)
        self.receiving = SqlReceiving(self.database, self.replicas)
        self.claims = SqlClaims(self.database, has_outbox=isinstance(self.database, Postgres))
        self.outbox = SqlOutbox(self.database, self.replicas) if isinstance(self.database, Postgres) else None

    async def open(self, replica_name: str, *, migrated: bool) -> None:
        """Connect, bring the schema up to date if `migrated`, and enter this replica."""
        self.database.outages.quiet = True
        try:
            await self._open(replica_name, migrated=migrated)
            self.database.outages.quiet = False
        except Unavailable as error:
            self.database.unavailable_reason = str(error)  # for whoever asks meanwhile
            if not isinstance(error, Unusable) and needs_a_person(error):
                raise Unusable(f"{self.label} cannot be used: {one_line(root_of(error))}") from error
            raise

    async def _open(self, replica_name: str, *, migrated: bool) -> None:
        await self.database.open_shard(migrated=migrated)
        await self.replicas.enter(replica_name)
        await self.database.startup_done()

    async def close(self) -> None:
        await self.database.close()

    def resize(self, pool: int) -> None:
        """Use another number of connections for operations."""
        self.database.resize(pool)

    async def next_ids(self, kind: str) -> tuple[int, int]:
        return await next_ids(self.database, kind)
