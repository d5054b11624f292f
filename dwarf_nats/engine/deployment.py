"""The agreement of the replicas on the databases of a deployment, their order, and how many take new flows (O1, O17).

The agreement is kept in the databases, so that no replica relies on its own count. Each database says of which deployment it
is, which shard it is, and how many shards are agreed on. A replica that brings one more shard serves it at once. The number
agreed on rises once every living replica knows the new shard: first in the older databases, one after the other, then in the
newer ones. So if a database has the new number, no older one has the old number any more.

The numbers agreed on so far are kept as well: what has a home by the number of shards is on one of the homes it has had.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.rules.shard_counts import UNKNOWN, home_of, homes_of
from dwarf_nats.rules.shard_policies import DEFAULT_POLICY, ShardPolicy, read_policy

if TYPE_CHECKING:
    from dwarf_nats.engine.shard import Shard
    from dwarf_nats.ports import Definition, Logger
    from dwarf_nats.rules.rows import ShardIdentity
    from dwarf_nats.settings import EngineSettings

FREED_BATCH_KEYS = 100
"""Keys of deleted flows that are freed in one run of the duty, so that it stays short."""


class Deployment:
    """The agreement as this replica has last read it, and its part in reaching it."""

    def __init__(self, shards: Mapping[int, Shard], settings: EngineSettings, logger: Logger) -> None:
        self._shards = shards
        self._settings = settings
        self._log = logger
        self._name = ""
        self._named_by = ""
        self._counts: dict[int, int] = {}
        self._past_counts: set[int] = set()
        self._lock = asyncio.Lock()
        self._told_outdated = False
        self._not_answering: set[int] = set()
        self.policies: dict[int, ShardPolicy] = {}
        """The policies of shards that have one, by number."""

    @property
    def count(self) -> int:
        """The number of shards agreed on; 0 before the first agreement."""
        return max(self._counts.values(), default=0)

    def is_away(self, number: int) -> bool:
        """Tell whether the database of a shard is taken to be away, or not known here."""
        shard = self._shards.get(number)
        return shard is None or shard.availability.is_away

    def all_there(self) -> list[Shard]:
        """Return all shards of the deployment; none at all if one of them is away, or not known here."""
        known = [shard for _, shard in sorted(self._shards.items())]
        answering = [shard for shard in known if shard.opened and not self._is_silent(shard)]
        return answering if answering == known and 0 < self.count <= len(known) else []

    def _is_silent(self, shard: Shard) -> bool:
        return shard.availability.is_away or shard.number in self._not_answering

    # -- where flows and keys belong

    def any_shard(self) -> Shard:
        """Return a shard for a new flow: one of those agreed on and not cordoned, at random among those that answer.

        The weights of their policies count.
        """
        agreed = [shard for number, shard in self._shards.items() if number <= self.count or not self.count]
        if self.policies:
            agreed = [shard for shard in agreed if not self.is_cordoned(shard.number)] or agreed
        there = [
            shard for shard in agreed if not shard.availability.is_away and shard.number not in self._not_answering
        ]
        found = there or agreed
        if not self.policies:
            return random.choice(found)
        return random.choices(found, [self.policy(shard.number).weight for shard in found])[0]

    def policy(self, number: int) -> ShardPolicy:
        """Return the policy of a shard."""
        return self.policies.get(number, DEFAULT_POLICY)

    def is_cordoned(self, number: int) -> bool:
        """Tell whether a shard takes no new flows."""
        return self.policy(number).cordoned

    def follow(self, definitions: Mapping[str, Definition]) -> None:
        """Know these policies from now on."""
        found: dict[int, ShardPolicy] = {}
        for name, definition in definitions.items():
            try:
                found[int(name)] = read_policy(definition.body)
            except ValueError:
                self._log.error("the policy of shard %s is left out: it cannot be read", name)
        self.policies = found

    def other_than(self, away: Shard) -> Shard | None:
        """Return another shard for a new flow, if there is one. `away` was found to be away, and gets none until it answers."""
        self._not_answering.add(away.number)
        shard = self.any_shard()
        return None if shard.availability.is_away or shard.number in self._not_answering else shard

    async def home(self, fairness_key: str, idempotency_key: str) -> tuple[Shard, int]:
        """Return the home of an idempotency key, and the number of shards it was worked out with.

        That number held on the home before this returns, so what is read of other shards afterwards is not older. Raises
        `Unavailable`.
        """
        for again in (False, True):
            number = home_of(self.count, fairness_key, idempotency_key)
            if number and self._counts.get(number, 0) == self.count:
                if number not in self._shards:
                    raise self.unknown_shard(number)
                return self._shards[number], self.count
            if not again:
                try:
                    await self.agree()
                except BadRequest as error:  # of this replica, not of the request
                    raise Unavailable(error.message) from None
        if number and number in self._shards and self._shards[number].availability.is_away:
            raise Unavailable(self._shards[number].availability.reason)
        raise Unavailable("the replicas have not agreed on the shards of this deployment yet: try again")

    @property
    def homes_have_moved(self) -> bool:
        """Tell whether a key may have had another home than the present one."""
        return len(self._past_counts) > 1 or UNKNOWN in self._past_counts

    def homes(self, fairness_key: str, idempotency_key: str) -> list[Shard]:
        """Return the shards that may keep a key: the homes it has had; all shards if not every number of shards is known.

        Ask for `home` first. Raises `Unavailable` if this replica lacks one.
        """
        if UNKNOWN in self._past_counts:
            return list(self._shards.values())
        numbers = homes_of(self._past_counts, fairness_key, idempotency_key)
        for number in numbers - self._shards.keys():
            raise self.unknown_shard(number)
        return [self._shards[number] for number in sorted(numbers)]

    def record_count(self, number: int, count: int, counts: Collection[int]) -> None:
        """Take in the number of shards agreed on and those before it, as a database says."""
        self._past_counts.update(counts)
        self._counts[number] = max(count, self._counts.get(number, 0))
        if self.count > len(self._shards) and not self._told_outdated:
            self._told_outdated = True
            self._log.error("%s", self.unknown_shard(self.count))

    def unknown_shard(self, number: int) -> Unavailable:
        """Make the error for a shard that the deployment has, and this replica does not."""
        return Unavailable(
            f"this replica knows {len(self._shards)} shards of {max(self.count, number)}: start it with the DSNs of all"
        )

    # -- agreeing

    async def admit(self, shard: Shard) -> None:
        """Check that a database just opened is the one it was given for. Raises `BadRequest` that says what to do."""
        found = await shard.store.deployment.identity()
        if found is not None:
            self._check(shard, found)

    def _check(self, shard: Shard, found: ShardIdentity) -> None:
        shown = shard.store.label
        if found.shard != shard.number:
            raise BadRequest(
                f"{shown} is shard {found.shard} of its deployment, but was given as shard {shard.number}:"
                " give each database once, in the order of the shards"
            )
        if self._name and found.deployment != self._name:
            raise BadRequest(
                f"{shown} (shard {shard.number}) belongs to another deployment than {self._named_by}:"
                " give the databases of one deployment"
            )
        given = max(len(self._shards), shard.number)
        if found.shards > given:
            raise BadRequest(
                f"this deployment has {found.shards} shards, but {given} databases were given: give all of them, in order;"
                " flows on the others could not be found"
            )
        self._name, self._named_by = found.deployment, self._named_by or shown
        self.record_count(shard.number, found.shards, found.counts)

    async def agree(self) -> None:
        """Read the agreement, and raise the number of shards if every living replica knows more.

        Databases that are away are left for the next time. Raises `BadRequest` for a database that does not belong here.
        """
        async with self._lock:
            facts = await self._identities()
            if not facts:
                return
            before = self.count
            wanted = await self._wanted_count(facts)
            if all(number in facts for number in range(1, wanted + 1)):
                await self._raise(facts, wanted)
            if before and self.count != before:
                self._log.info("new flows go to %d shards from now on", self.count, extra={"shards": self.count})

    async def _raise(self, facts: Mapping[int, ShardIdentity], wanted: int) -> None:
        """Write a number of shards into the databases that have a lower one, unless one of them has changed meanwhile."""
        counts = self._past_counts | {wanted}
        for number in range(1, wanted + 1):
            before = facts[number].shards
            if before < wanted:
                raised = await self._shards[number].store.deployment.raise_shards(wanted, counts, before=before)
                if not raised:
                    return  # by another replica: what it knew is read first
            self.record_count(number, wanted, counts)

    async def _identities(self) -> dict[int, ShardIdentity]:
        """Return what each database says that answers; one that says nothing becomes a shard of this deployment."""
        there = [shard for _, shard in sorted(self._shards.items()) if shard.opened and not shard.availability.is_away]
        facts: dict[int, ShardIdentity] = {}
        for shard in there:
            found = await shard.store.deployment.identity()
            if found is None:
                if shard.number <= self.count:
                    raise BadRequest(
                        f"{shard.store.label} was given as shard {shard.number} of {self.count}, but holds nothing"
                        " of this deployment: give the one that held this shard before, or restore it"
                    )
                if not self._name and shard.number > 1:
                    continue  # the first shard names the deployment
                found = await shard.store.deployment.join(self._name or secrets.token_hex(8))
            self._check(shard, found)
            facts[shard.number] = found
        return facts

    async def _wanted_count(self, facts: Mapping[int, ShardIdentity]) -> int:
        """Return the number of shards to be agreed on."""
        if not self.count or self.count >= len(self._shards):
            return self.count or len(self._shards)
        timeout_ms = self._settings.replica_timeout_ms
        known = [
            await self._shards[number].store.deployment.least_known_shards(timeout_ms)
            for number in facts
            if number <= self.count
        ]
        return max(self.count, min([*known, len(self._shards)]))

    async def on_heartbeat(self, number: int, count: int, counts: Collection[int]) -> None:
        """Take in the number of shards agreed on from the heartbeat of a shard, and go on agreeing if it is not all."""
        self._not_answering.discard(number)
        self.record_count(number, count, counts)
        if self.count < len(self._shards) or any(
            self._counts.get(one, 0) < self.count for one in self._shards if one <= self.count
        ):
            try:
                await self.agree()
            except BadRequest as error:
                self._log.error("%s", error)

    # -- keys of flows that are deleted

    async def free_deleted_keys(self, shard: Shard) -> None:
        """Free the idempotency keys of flows that were deleted on this shard and have their homes on others."""
        deleted = await shard.store.keys.deleted_flows(FREED_BATCH_KEYS)
        for flow_id, fairness_key, idempotency_key in deleted:
            for other in self.homes(fairness_key, idempotency_key):
                if other is not shard:
                    await other.store.keys.free(fairness_key, idempotency_key, shard.number, flow_id)
        await shard.store.keys.confirm_deleted([flow_id for flow_id, _, _ in deleted])
