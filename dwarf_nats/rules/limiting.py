"""Who may begin under the limits: counts, permits and what becomes of those who want one (K1). Pure.

Each limit has a *slot* for every key it counts by, and a slot has a count. A step or flow that a slot counts holds a *permit*
of it. A permit of a step belongs to one claim of it (its lease generation), a permit of a flow to one stretch of its running
(the time of its last change of status): once that is over it never comes back, so whoever sees it over may take the permit
back. A permit is *reserved* until what holds it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from dwarf_nats.workflow.limit import Limit

_SECOND = 1_000_000


class Because(StrEnum):
    """Which part of a limit makes a step wait."""

    LIMIT = "limit"
    RATE = "rate"


class Root(NamedTuple):
    """The root flow of a step, as far as limits ask. `tags`: as they are stored. `updated_at`: of its last change of status."""

    flow_id: int
    workflow: str
    updated_at: int
    tags: str | None


class Waiting(NamedTuple):
    """A step at the head of a slot's queue. `turn`: its place among those of its priority."""

    step_id: int
    slot: str
    priority: int
    turn: float
    lease_seq: int
    url: str
    fairness_key: str
    weight: float
    root_id: int
    root_workflow: str
    root_updated_at: int
    root_tags: str | None

    @property
    def root(self) -> Root:
        return Root(self.root_id, self.root_workflow, self.root_updated_at, self.root_tags)


class Denied(NamedTuple):
    """A claimed step that has to wait: it goes to the queue of this slot. `fresh`: it has never been at its task."""

    step_id: int
    lease_seq: int
    name: str
    slot: str
    because: str
    priority: int
    fairness_key: str
    weight: float
    fresh: bool


class Permit(NamedTuple):
    """A permit, as it is stored. `permit`: its id, `<limit>/s<shard>-<step>` or `<limit>/f<shard>-<flow>`."""

    permit: str
    name: str
    slot: str
    shard: int
    holder: int
    of_flow: int
    generation: int
    started: int


class Demand(NamedTuple):
    """The permit of a slot that a limit asks of a step. `forced`: it has begun already, and is counted in any case."""

    limit: Limit
    slot: str
    shard: int
    holder: int
    generation: int
    forced: bool = False

    @property
    def permit(self) -> str:
        kind = "f" if self.limit.of_flows else "s"
        return f"{self.limit.name}/{kind}{self.shard}-{self.holder}"

    def granted(self, *, started: bool) -> Permit:
        """The permit."""
        flows = self.limit.of_flows
        return Permit(
            permit=self.permit,
            name=self.limit.name,
            slot=self.slot,
            shard=self.shard,
            holder=self.holder,
            of_flow=int(flows),
            generation=self.generation,
            started=int(started),
        )


class Want(NamedTuple):
    """A step that wants all these permits, or none of them. `begins`: at once, else its permits are reserved."""

    shard: int
    step_id: int
    demands: Sequence[Demand]
    begins: bool


class Over(NamedTuple):
    """The end of what held a permit. `generation`: the permit goes if it is of this one; with `older`, of an earlier one."""

    permit: str
    generation: int
    older: bool = False
    slot: str = ""
    """If it is known."""


@dataclass(slots=True)
class Count:
    """The count of a slot. `running`: permits, the `reserved` ones too. `tokens`: beginnings the rate allows; `None`: all."""

    running: int = 0
    reserved: int = 0
    tokens: float | None = None
    at: int = 0

    def refill(self, limit: Limit, now: int) -> None:
        """Add what the rate has allowed since `at`."""
        if limit.per_second is None:
            self.tokens = None
        elif self.tokens is None:
            self.tokens = limit.capacity
        else:
            grown = self.tokens + limit.per_second * max(0, now - self.at) / _SECOND
            self.tokens = min(limit.capacity, grown)
        self.at = now

    def denies(self, limit: Limit) -> Denial | None:
        """The reason why no more may begin, if there is one."""
        if limit.concurrency is not None and self.running >= limit.concurrency:
            return Denial(limit.name, "", Because.LIMIT, None)
        if limit.per_second is not None and self.tokens is not None:
            missing = 1.0 - (self.tokens - self.reserved)
            if missing > 1e-9:
                return Denial(limit.name, "", Because.RATE, round(missing / limit.per_second * _SECOND))
        return None

    def take(self, *, begins: bool) -> None:
        """Count one more permit."""
        self.running += 1
        if begins:
            self._begin()
        else:
            self.reserved += 1

    def start(self) -> None:
        """A reserved permit is used."""
        self.reserved -= 1
        self._begin()

    def drop(self, *, started: bool) -> None:
        """Count one permit less."""
        self.running -= 1
        if not started:
            self.reserved -= 1

    def _begin(self) -> None:
        if self.tokens is not None:
            self.tokens -= 1.0


class Denial(NamedTuple):
    """A slot that denies a permit. `retry_us`: when the rate allows another, from now; the end of a permit may come first."""

    name: str
    slot: str
    because: Because
    retry_us: int | None


@dataclass(slots=True)
class Exchanged:
    """The result of an exchange of permits.

    `removed`, `changed`: permits to be written, `freed`: slots that count less than before.
    """

    granted: list[Want] = field(default_factory=list)
    denied: list[tuple[Want, Denial]] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    changed: dict[str, Permit] = field(default_factory=dict)
    freed: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Exchange:
    """Takes permits back and gives others, under the locks of their slots.

    `permits`: those that are stored, of all who are asked about. `counts`: of their slots. `limits`: by name.
    """

    limits: Mapping[str, Limit]
    counts: dict[str, Count]
    permits: dict[str, Permit]
    now: int
    result: Exchanged = field(default_factory=Exchanged)

    def run(self, over: Iterable[Over], wants: Iterable[Want]) -> Exchanged:
        """Take back what is over, then serve the wants in their order."""
        for slot, count in self.counts.items():
            if (limit := self.limits.get(slot.partition("/")[0])) is not None:
                count.refill(limit, self.now)
        for one in over:
            permit = self.permits.get(one.permit)
            if permit is not None and (
                permit.generation < one.generation if one.older else permit.generation == one.generation
            ):
                self._remove(permit)
        for want in wants:
            denial = self._denial(want)
            if denial is None:
                for demand in want.demands:
                    self._grant(demand, begins=want.begins)
                self.result.granted.append(want)
            else:
                self._give_up(want)
                self.result.denied.append((want, denial))
        return self.result

    def _held(self, demand: Demand) -> Permit | None:
        """The permit that serves a demand: that of the same claim, or of a flow whatever it has been through since."""
        permit = self.permits.get(demand.permit)
        if permit is None or (not permit.of_flow and permit.generation != demand.generation):
            return None
        return permit

    def _denial(self, want: Want) -> Denial | None:
        for demand in want.demands:
            if self._held(demand) is not None:
                continue
            stale = self.permits.get(demand.permit)
            if stale is not None:
                if stale.generation > demand.generation:  # a later claim has it: this one is over
                    return Denial(demand.limit.name, demand.slot, Because.LIMIT, None)
                self._remove(stale)  # of an earlier claim, which is over
            if demand.forced:
                continue
            denial = self.counts[demand.slot].denies(demand.limit)
            if denial is not None:
                return denial._replace(slot=demand.slot)
        return None

    def _grant(self, demand: Demand, *, begins: bool) -> None:
        held = self._held(demand)
        if held is None:
            self.counts[demand.slot].take(begins=begins)
            self._keep(demand.granted(started=begins))
        else:
            starts = begins and not held.started
            if starts:
                self.counts[held.slot].start()
            if starts or held.generation < demand.generation:
                generation = max(held.generation, demand.generation)
                self._keep(held._replace(generation=generation, started=int(starts or bool(held.started))))

    def _give_up(self, want: Want) -> None:
        """A step that waits keeps no permit of its own meanwhile; its flow does, once it has begun."""
        for demand in want.demands:
            held = self._held(demand)
            if held is not None and not held.started:
                self._remove(held)

    def _keep(self, permit: Permit) -> None:
        self.permits[permit.permit] = permit
        self.result.changed[permit.permit] = permit
        self.result.removed.discard(permit.permit)

    def _remove(self, permit: Permit) -> None:
        del self.permits[permit.permit]
        self.counts[permit.slot].drop(started=bool(permit.started))
        self.result.removed.add(permit.permit)
        self.result.changed.pop(permit.permit, None)
        self.result.freed.add(permit.slot)


class LimitBook:
    """The limits of a deployment, by what they limit. `active`: there are any."""

    def __init__(self) -> None:
        self.active = False
        self.by_name: dict[str, Limit] = {}
        self.tasks: dict[str, tuple[Limit, ...]] = {}
        self.workflows: dict[str, tuple[Limit, ...]] = {}
        self.tagged_tasks: set[str] = set()
        """Tasks with a limit by tag."""

    def replace(self, limits: Mapping[str, Limit]) -> None:
        """Know these limits from now on, and no others."""
        self.by_name = dict(limits)
        self.tasks.clear()
        self.workflows.clear()
        for limit in limits.values():
            where, target = (self.workflows, limit.workflow) if limit.of_flows else (self.tasks, limit.task)
            where[target] = (*where.get(target, ()), limit)
        self.tagged_tasks = {limit.task for limit in limits.values() if limit.task and limit.by_tag}
        self.active = bool(limits)

    def needs_root(self, url: str, workflow: str, *, is_root: bool) -> bool:
        """True if it takes the root flow of a step to know its demands."""
        if url in self.tagged_tasks:
            return True
        return bool(self.workflows) and (not is_root or workflow in self.workflows)

    def demands(
        self, shard: int, step: tuple[int, int], *, url: str, fairness_key: str, root: Root | None, begun_at: int | None
    ) -> list[Demand]:
        """The demands on a step, given as its id and the generation of its claim.

        `begun_at`: when its flow was created, if that has begun and goes on: limits that were put later count it at once.
        """
        step_id, generation = step
        tags = root.tags if root is not None else None
        found = [
            Demand(
                limit=limit,
                slot=limit.slot(limit.key(fairness_key, tags)),
                shard=shard,
                holder=step_id,
                generation=generation,
            )
            for limit in self.tasks.get(url, ())
        ]
        if root is not None:
            found += [
                Demand(
                    limit=limit,
                    slot=limit.slot(limit.key(fairness_key, tags)),
                    shard=shard,
                    holder=root.flow_id,
                    generation=root.updated_at,
                    forced=begun_at is not None and begun_at < limit.since,
                )
                for limit in self.workflows.get(root.workflow, ())
            ]
        return found
