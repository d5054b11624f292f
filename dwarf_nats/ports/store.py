"""Ports to one database, one for each kind of reader; `Store` holds them together.

Rules that hold for every method:

- One call is one transaction and one true sentence: it is done as a whole or not at all.
- It raises `Unavailable` while the database is away, `StatementRefused` if the database is there and cannot do this now,
  `Unstorable` if it can never store a value.
- Times are microseconds since the epoch on the database's clock, unless the name says otherwise (`_ms`). Ids are those of this
  shard. JSON is text.
- A write that lost against a newer lease generation (X1) changes nothing and is missing from the result; that is no error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dwarf_nats.ports.backlogs import BacklogStore
from dwarf_nats.ports.home import HomeStore
from dwarf_nats.ports.receiving import ReceivingParts

if TYPE_CHECKING:
    from dwarf_nats.ports.audit import AuditStore
    from dwarf_nats.ports.bulk import BulkStore
    from dwarf_nats.ports.control import ControlStore
    from dwarf_nats.ports.events import EventStore
    from dwarf_nats.ports.explanations import ExplanationStore
    from dwarf_nats.ports.holds import HoldStore
    from dwarf_nats.ports.limits import LimitStore
    from dwarf_nats.ports.retention import RetentionStore
    from dwarf_nats.ports.shared import (
        BreakerStore,
        DeploymentStore,
        GraphStore,
        IntegrityStore,
        KeyStore,
        ReplicaStore,
    )
    from dwarf_nats.ports.statistics import StatisticsStore, StoreSize
    from dwarf_nats.ports.values import ClaimStore
    from dwarf_nats.rules.claims import ClaimedRow
    from dwarf_nats.rules.rows import Called, FanOut, FlowRow, PausedFlow, StepRow, SummaryRow
    from dwarf_nats.rules.scheduling.values import Page, PageRequest, Share
    from dwarf_nats.rules.settlement import Settlement, SettleResult
    from dwarf_nats.rules.state_refs import RefSource
    from dwarf_nats.rules.steps import ClaimedStep, NewFlow, NewIds
    from dwarf_nats.workflow.answer import Compensating
    from dwarf_nats.workflow.cursors import Place
    from dwarf_nats.workflow.keys import Key
    from dwarf_nats.workflow.limits import Limits
    from dwarf_nats.workflow.options import Query
    from dwarf_nats.workflow.records import FlowCounts
    from dwarf_nats.workflow.state import Raw, State


class StepStore(BacklogStore, Protocol):
    """The hot path on one shard: flows are created with their entry step; due steps are found, claimed and settled."""

    @property
    def shard(self) -> int:
        """The number of the shard."""
        ...

    @property
    def in_memory(self) -> bool:
        """Its commits stay in memory, and wait for no disk."""
        ...

    async def create(self, group: Sequence[NewFlow], budget_ms: int) -> dict[int, int]:
        """Insert flows with their entry steps; return flow id → creation time of those that were inserted.

        A flow is left out if its idempotency key was taken (O1) or its graph is kept no longer (G10). The entry step of an
        eager start is leased at once, for the flow's time budget, or `budget_ms`, and a grace (B2).
        """
        ...

    async def peek(self, request: PageRequest, blocked_tasks: Collection[str] = ...) -> Page:
        """Read one page of the ready queue; queue heads of `blocked_tasks` are read past and not counted (C3)."""
        ...

    async def promote_due(self, limit: int) -> int:
        """Put up to `limit` scheduled steps whose time has come into the ready queue, longest due first; return how many."""
        ...

    async def claim(
        self, limit: int, budget_ms: int, shares: Sequence[Share], task_budgets: Mapping[str, int] = ...
    ) -> list[ClaimedRow]:
        """Claim up to `limit` due steps (X1): the shares in turn, in each the steps that have been due longest (C1, C2).

        A task in `task_budgets` gives at most that many steps; with 0 its steps are passed over (C3). Each claimed step is
        leased for its flow's time budget, or `budget_ms`, and a grace (B2).
        """
        ...

    async def claim_probe(self, url: str, budget_ms: int) -> ClaimedRow | None:
        """Claim the parked step of a task that has been due longest (V4); `None` if none is due."""
        ...

    async def settle(
        self, group: Sequence[Settlement], budget_ms: int, new_step: NewIds = ..., limits: Limits = ...
    ) -> SettleResult:
        """Write settlements and their consequences; a group settles a step at most once.

        Settlements that were fenced off are missing from the result (X1). `new_step` gives ids to steps that come to be by what
        the group does together.
        """
        ...

    async def extend_lease(self, step_id: int, lease_seq: int, lease_us: int) -> bool:
        """Lease a claimed step for so many microseconds from now (B2); return whether this claim still holds it (X1)."""
        ...

    async def ref_source(self, step_ids: Collection[int]) -> RefSource:
        """Read what these steps hold, for the states that refer to them (S2)."""
        ...

    async def compensation(self, step: ClaimedStep) -> Compensating:
        """Read the step that a claimed step compensates, and why its flow ends (N9). Raises `DanglingRef` if it is gone."""
        ...

    async def save_progress(self, rows: Sequence[tuple[int, int, str, int]]) -> set[int]:
        """Write the progress of running steps: step, lease generation, JSON text, microseconds since it was reported.

        Return the ids of those that were written: not those that were taken away, or are just being written (B7).
        """
        ...

    async def checkpoints(self, step_ids: Sequence[int]) -> dict[int, Raw]:
        """Return the data of the last progress of these steps, by their ids; nothing for those without."""
        ...

    async def close_stale(self, step_ids: Sequence[int]) -> None:
        """Give steps of terminal flows the status of their flow, and end their lease (X2)."""
        ...

    async def cancelled_among(self, step_ids: Sequence[int]) -> list[int]:
        """Return those of these steps that are cancelled, or gone with their flow."""
        ...


class FlowStore(Protocol):
    """Reads flows and their steps."""

    @property
    def shard(self) -> int:
        """The number of the shard."""
        ...

    async def get(self, key: Key) -> FlowRow:
        """Return the flow of a key. Raises `NotFound` if there is none or the token is wrong."""
        ...

    async def thread(self, key: Key) -> FlowRow:
        """Return the flow of a key, or another flow of the thread it names if that flow is gone (O15). Raises `NotFound`."""
        ...

    async def by_id(self, flow_id: int) -> FlowRow | None:
        """Return the flow of this id, whatever its token."""
        ...

    async def by_idempotency_key(self, fairness_key: str, idempotency_key: str) -> FlowRow | None:
        """Return the flow that was made with this idempotency key (O1)."""
        ...

    async def latest_of_thread(self, thread_id: int) -> FlowRow | None:
        """Return the flow of a thread that was created last (O15)."""
        ...

    async def tree(self, root_id: int) -> dict[int, FlowRow]:
        """Return a root flow and the flows it called, directly or not, by id."""
        ...

    async def called(self, flow: FlowRow) -> list[FlowRow]:
        """Return the flow and the flows it called, directly or not."""
        ...

    async def paused_by(self, flow: FlowRow) -> PausedFlow | None:
        """Return the pauses that the flow's outcome shows, with the complete state of the oldest (O5, P5).

        `None` if nothing pauses it any more.
        """
        ...

    async def fingerprint(self, flow: FlowRow) -> Sequence[Any]:
        """Return values that change whenever the flow, a flow it called, or a step of theirs does (O6)."""
        ...

    async def stopped_among(self, flow_ids: Sequence[int]) -> list[int]:
        """Return those of these flows that are stopped, or gone."""
        ...

    async def list_page(
        self, query: Query, limit: int, thread_id: int | None, cursor: str
    ) -> tuple[list[SummaryRow], str]:
        """Return at most `limit` flows that match, newest first, and the cursor of the next page, empty on the last (O9).

        Raises `BadRequest` for a malformed cursor.
        """
        ...

    async def counts(self, query: Query, thread_id: int | None) -> FlowCounts:
        """Count the root flows that match by status, up to a bound, so that the cost is bounded, too (O9)."""
        ...

    async def size(self) -> StoreSize:
        """Count flows and steps."""
        ...

    async def step(self, key: Key) -> StepRow:
        """Return the step of a key, its state complete. Raises `NotFound` if there is none or the token is wrong."""
        ...

    async def step_by_id(self, step_id: int) -> StepRow | None:
        """Return the step of this id, its state without what it refers to (S2)."""
        ...

    async def steps(self, flow_ids: Sequence[int]) -> list[StepRow]:
        """Return the steps of flows by depth and id; texts that may be large, such as states, are left empty (O7)."""
        ...

    async def complete_steps(self, flow_ids: Sequence[int]) -> list[StepRow]:
        """Return the steps of flows by depth and id, with their states and changes."""
        ...

    async def count_steps(self, flow_ids: Sequence[int], most: int) -> int:
        """Count the steps of flows; counting ends at `most + 1`."""
        ...

    async def resolve(self, state: str, borrowed: str | None) -> State:
        """Return a stored state with the fields it refers to (S2). Raises `DanglingRef` if a step it refers to is gone."""
        ...


class HistoryStore(Protocol):
    """Reads histories page by page, by index: nothing reads more rows than it returns (O7). Large texts are left empty."""

    @property
    def shard(self) -> int:
        """The number of the shard."""
        ...

    async def page(self, flow_id: int, after: Place, limit: int) -> list[StepRow]:
        """Return at most `limit` steps of the flow that come after a place in its history."""
        ...

    async def called(self, root_id: int, step_ids: Sequence[int]) -> dict[int, Called]:
        """Return the flows that these steps of a tree called, by the ids of the steps."""
        ...

    async def fan_outs(self, step_ids: Sequence[int]) -> dict[int, FanOut]:
        """Return the steps of these ids that fanned out, by their ids."""
        ...

    async def first_steps(self, flow_ids: Sequence[int], limit: int) -> dict[int, list[StepRow]]:
        """Return the first `limit` steps of each flow, by flow id."""
        ...

    async def entry(self, flow_id: int) -> StepRow | None:
        """Return the entry step of a flow."""
        ...

    async def last(self, flow_id: int) -> StepRow | None:
        """Return the youngest step of a flow that has no successor."""
        ...

    async def first_branch(self, step_id: int) -> StepRow | None:
        """Return the first branch of a step that fanned out."""
        ...


class IdSource(Protocol):
    """Gives out ids."""

    async def next_ids(self, kind: str) -> tuple[int, int]:
        """Return a block of ids for `flow`, `step` or `replica`: the first one, and how many."""
        ...


class Store(IdSource, HomeStore, ReceivingParts, Protocol):
    """One shard: its database and the ports to it."""

    shard: int
    """Its number, from 1."""

    @property
    def label(self) -> str:
        """The database as it may be named in messages, without secrets."""
        ...

    @property
    def steps(self) -> StepStore:
        """Steps: claimed, settled, promoted."""
        ...

    @property
    def flows(self) -> FlowStore:
        """Flows: created, started, looked up, listed."""
        ...

    @property
    def histories(self) -> HistoryStore:
        """Steps of flows as they are read by people."""
        ...

    @property
    def explanations(self) -> ExplanationStore:
        """Living steps, and what they wait for."""
        ...

    @property
    def control(self) -> ControlStore:
        """Operations on trees of flows."""
        ...

    @property
    def bulk(self) -> BulkStore:
        """Operations on many flows at once."""
        ...

    @property
    def claims(self) -> ClaimStore:
        """Claims in rows."""
        ...

    @property
    def retention(self) -> RetentionStore:
        """The removal of old flows."""
        ...

    @property
    def graphs(self) -> GraphStore:
        """Graphs, by digest."""
        ...

    @property
    def breakers(self) -> BreakerStore:
        """Circuit breakers of tasks."""
        ...

    @property
    def replicas(self) -> ReplicaStore:
        """Replicas and their leases."""
        ...

    @property
    def integrity(self) -> IntegrityStore:
        """Checks and repairs of what a crash may leave."""
        ...

    @property
    def deployment(self) -> DeploymentStore:
        """The deployment that the database belongs to."""
        ...

    @property
    def keys(self) -> KeyStore:
        """Idempotency and thread keys."""
        ...

    @property
    def audit(self) -> AuditStore:
        """Records of what was done, and by whom."""
        ...

    @property
    def statistics(self) -> StatisticsStore:
        """Numbers that people watch."""
        ...

    @property
    def events(self) -> EventStore:
        """Events, and steps that wait for them."""
        ...

    @property
    def limits(self) -> LimitStore:
        """Permits and those who wait for one."""
        ...

    @property
    def holds(self) -> HoldStore:
        """The steps that are on hold."""

    async def open(self, replica_name: str, *, migrated: bool) -> None:
        """Connect, bring the schema up to date if `migrated`, and enter this replica.

        Raises `Unusable` if only a person can help, `Unavailable` if the schema is older and not to be migrated.
        """
        ...

    async def close(self) -> None:
        """Close all connections; what is called afterwards raises `Unavailable`."""
        ...

    def resize(self, pool: int) -> None:
        """Use another number of connections for operations."""
        ...
