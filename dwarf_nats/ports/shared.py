"""Ports to what the replicas of a deployment share in one database: graphs, breakers, replicas, shards and idempotency keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dwarf_nats.ports.control import FinalState
    from dwarf_nats.rules.rows import HeartbeatReply, Reservation, ShardIdentity, TreeChange
    from dwarf_nats.rules.steps import NewFlow, ReadyStep


class PruneResult(NamedTuple):
    """`removed`: graphs that were removed. `after`: where the next call goes on; empty at the end."""

    removed: int
    after: str


class RegisteredGraph(NamedTuple):
    """A name in the registry and the digest of its graph."""

    name: str
    digest: str
    updated_at: int


class KeyLookup(NamedTuple):
    """The agreed number of shards (0: none yet), those before it, and the flow that has the key, if one has."""

    shards: int
    counts: frozenset[int]
    reservation: Reservation | None


class DeletedFlow(NamedTuple):
    """A flow that is gone, and the idempotency key it had on another shard."""

    flow_id: int
    fairness_key: str
    idempotency_key: str


class NewerSchema(NamedTuple):
    """A schema that a later version has made. `may_stay`: replicas of this version may go on with it."""

    revision: str
    may_stay: bool


class GraphStore(Protocol):
    """Keeps graphs by digest, each once, and the registry that names them (G10)."""

    @property
    def shard(self) -> int:
        """The number of the shard."""
        ...

    async def save(self, digest: str, body: bytes) -> int:
        """Keep a graph; return until when. After that it is kept while a flow or the registry uses it."""
        ...

    async def load(self, digest: str) -> bytes | None:
        """Return the JSON of a graph."""
        ...

    async def prune(self, after: str, limit: int) -> PruneResult:
        """Remove graphs that nothing uses, and look at `limit` more behind the digest `after`."""
        ...

    async def register(self, name: str, digest: str, updated_at: int | None = None) -> int:
        """Name a graph; return when.

        With `updated_at` the name is copied from another shard: a younger one here stays, and 0 is returned.
        """
        ...

    async def unregister(self, name: str) -> bool:
        """Remove a name; return whether it was there."""
        ...

    async def registered(self) -> list[RegisteredGraph]:
        """Return the registry, by name."""
        ...

    async def registered_digests(self, names: Sequence[str]) -> dict[str, str]:
        """Return the digests of those of these names that are registered."""
        ...


class BreakerStore(Protocol):
    """Keeps tripped circuit breakers and the steps that are parked for them (V4-V6)."""

    async def trip(self, url: str, cause: str) -> None:
        """Mark a task as tripped: from now on its steps are parked when they become pending."""
        ...

    async def untrip(self, url: str) -> None:
        """Remove the mark: from now on the task's steps become pending as any other."""
        ...

    async def park(self, url: str) -> None:
        """Park all pending steps of the task."""
        ...

    async def release(self, url: str, limit: int) -> list[ReadyStep]:
        """Unpark up to `limit` steps of the task, those due longest; return them."""
        ...

    async def next_probe(self, url: str) -> int | None:
        """Return the microseconds until a parked step of the task is due, 0 or less if one is; `None` if none is parked."""
        ...

    async def is_tripped(self, url: str) -> bool:
        """Return whether the task is tripped, or has steps that are still parked."""
        ...

    async def tripped_tasks(self) -> dict[str, str]:
        """Return the tripped tasks with the causes."""
        ...

    async def parked_tasks(self) -> list[str]:
        """Return the tasks that have parked steps."""
        ...


class ReplicaStore(Protocol):
    """Registers this replica, and takes over the steps of replicas that are dead (B2, B3)."""

    @property
    def shard(self) -> int:
        """The number of the shard."""
        ...

    known_shards: int
    """The number of shards this replica knows; the others learn it from its next heartbeat."""
    bus_away: bool
    """It holds steps because its connection to the task services is away; explanations tell it from its next heartbeat on."""

    async def heartbeat(self, name: str) -> HeartbeatReply:
        """Renew this replica's row (B2); return what a lost signal would have told (B1)."""
        ...

    async def is_leader(self) -> bool:
        """Return whether this replica is the one that repairs and prunes: of those that live the one longest known."""
        ...

    async def reclaim_expired_leases(self, timeout_ms: int) -> int:
        """Make steps pending whose lease is over or whose replica was silent for `timeout_ms` (B2); return how many.

        Rows that a stalled replica has locked are left for the next time.
        """
        ...

    async def release_unowned_leases(self, in_flight: Sequence[int]) -> int:
        """Make steps pending that this replica has claimed in the database but not `in_flight` (B6); return how many."""
        ...

    async def delete_dead(self, timeout_ms: int) -> None:
        """Remove the rows of replicas that were silent for ten times `timeout_ms` and hold no lease."""
        ...

    async def deregister(self) -> None:
        """Release all steps this replica has claimed, and remove its row (B3)."""
        ...


class IntegrityStore(Protocol):
    """Repairs what a crash, a defect or a manual change of the database can leave (B5)."""

    async def resume_orphaned_parents(self) -> TreeChange:
        """Make steps pending that wait for a child flow which is gone or has ended, with its end as their result."""
        ...

    async def cancel_orphaned_children(self, final_state: FinalState) -> TreeChange:
        """Cancel child flows whose caller has ended, and remove those whose caller is gone."""
        ...

    async def find_stalled_flows(self, age_ms: int) -> list[int]:
        """Return running flows in which no step has lived for `age_ms`."""
        ...


class DeploymentStore(Protocol):
    """Keeps what the replicas agree on: the deployment's name, the shard's number, the number of shards (O17)."""

    async def identity(self) -> ShardIdentity | None:
        """Return which shard of which deployment the database is; `None` if no deployment has joined it."""
        ...

    async def join(self, name: str) -> ShardIdentity:
        """Make the database a shard of a deployment, unless it is one already; return its identity then."""
        ...

    async def newer_schema(self) -> NewerSchema | None:
        """Return the revision of the schema if only a later version knows it."""
        ...

    async def raise_shards(self, shards: int, counts: Collection[int], *, before: int) -> bool:
        """Agree on a number of shards, with the counts so far, if the number is `before`; return whether it was."""
        ...

    async def least_known_shards(self, timeout_ms: int) -> int:
        """Return the number of shards that every replica knows which sent a heartbeat within `timeout_ms`."""
        ...


class KeyStore(Protocol):
    """Keeps idempotency keys (O1).

    The home of a key is a shard that follows from the key and the agreed number of shards. A flow on another shard reserves its
    key there first, and its own shard makes sure that the reserved id is used once.
    """

    async def lookup(self, fairness_key: str, idempotency_key: str) -> KeyLookup:
        """Return the agreed number of shards, and the flow that has the key whose home this is."""
        ...

    async def reserve(self, new: NewFlow) -> Reservation | None:
        """Take the key of a flow to be made on another shard; `None` if it is taken or the number of shards has changed."""
        ...

    async def free(self, fairness_key: str, idempotency_key: str, shard: int, flow_id: int) -> None:
        """Free the key of a flow that is gone; `shard` as in its `Reservation`."""
        ...

    async def is_placed(self, flow_id: int) -> bool | None:
        """Return whether a flow that was made here under a reserved key is there; `None` if it was never made."""
        ...

    async def fence(self, fairness_key: str, idempotency_key: str, flow_id: int) -> bool:
        """Bar a flow with a reserved key from being made any more; return whether it had not been made."""
        ...

    async def deleted_flows(self, limit: int) -> list[DeletedFlow]:
        """Return flows that are gone from here while the homes of their keys do not know it."""
        ...

    async def confirm_deleted(self, flow_ids: Sequence[int]) -> None:
        """Note that the homes of the keys of these flows know that they are gone."""
        ...
