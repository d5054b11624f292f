"""Find old flows by their creation time, and remove those that have ended (M2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dwarf_nats.ports import Found
from dwarf_nats.rules.retention import Candidate
from dwarf_nats.store.dialect import ENDED
from dwarf_nats.store.statements.delete import delete_trees
from dwarf_nats.store.statements.trees import LOCK_STEPS, with_called

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx

_COLUMNS = (
    "{now}, created_at, flow_id, updated_at, status, workflow, tags,"
    " case when surgraph_flow_id is null then 0 else 1 end"
)
# No flow is younger since its end than since its creation, so the index by creation time leads to all old ones. An index by
# the time of the end would cost every flow something, also where there is no rule.
LOOK = (
    f"select {_COLUMNS} from dwarf_flows where (created_at, flow_id) > ($1, $2) and created_at < {{now}} - $3"
    " order by created_at, flow_id limit $4"
)
LOCK_ENDED = (
    f"select {_COLUMNS} from dwarf_flows where flow_id {{in:$1}} and surgraph_flow_id is null and status in {ENDED}"
    " order by flow_id {for_update}"
)
COUNT = (
    "insert into dwarf_retention (name, removed) values ($1, $2)"
    " on conflict (name) do update set removed = dwarf_retention.removed + excluded.removed"
)
NOTE_RUN = (
    "insert into dwarf_retention (name, removed, last_run) values ($1, 0, {now})"
    " on conflict (name) do update set last_run = excluded.last_run"
)
FORGET_OTHERS = "delete from dwarf_retention where not (name {in_text:$1})"
FORGET = "delete from dwarf_retention where name = $1"
REMOVALS = "select name, removed, last_run from dwarf_retention"


async def look(tx: Tx, after: tuple[int, int], age_us: int, limit: int) -> Found:
    """Return flows after a place that were created at least `age_us` ago, oldest first."""
    moment, candidates = 0, []
    for now, *facts in await tx.fetch(LOOK, *after, age_us, limit):
        moment = now
        candidates.append(Candidate(*facts))
    return Found(moment, candidates)


async def remove(tx: Tx, flow_ids: Sequence[int], rule_for: Callable[[Candidate, int], str]) -> int:
    """Remove those of these root flows, with their trees, for which there is a rule while they are locked."""
    await tx.fetch(LOCK_STEPS, await with_called(tx, flow_ids))
    rows = await tx.fetch(LOCK_ENDED, list(flow_ids))
    names: dict[int, str] = {}
    for now, *facts in rows:
        candidate = Candidate(*facts)
        if name := rule_for(candidate, now):
            names[candidate.flow_id] = name
    if names:
        await delete_trees(tx, list(names))
        for name, count in sorted(Counter(names.values()).items()):
            await tx.fetch(COUNT, name, count)
    return len(names)


async def note_run(tx: Tx, names: Sequence[str]) -> None:
    """Note that these rules were carried out to the end; forget all others."""
    await tx.fetch(FORGET_OTHERS, list(names))
    for name in sorted(names):
        await tx.fetch(NOTE_RUN, name)
