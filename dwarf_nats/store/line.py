"""The line of due steps: how it is kept, read and taken from at a cost that does not grow with it (C4).

A pending, unparked step is *ripe* if it was due when its row was last written, else it *sleeps*. Both can be told from
the row alone, `not_before` against `updated_at`, so partial indexes hold each apart: those of the ripe steps say who is
next, that of the sleeping ones who wakes next. A step whose successor is born due is ripe at birth and costs nothing
extra; one that slept is put in line (`promote_due`) by one more write of its row once its time has come.

Bands and keys are found by skipping: each probe of the index begins behind the last key found. Two indexes hold the
ripe steps:

- `dwarf_steps_ripe` (band, key, due time): the steps of a key, longest due first, are a prefix.
- `dwarf_steps_lane` (band, key, task, due time): used when tasks are to be passed over (C3); a task's steps are then
  stepped over by one probe, however many there are, and a key's steps are merged from its other tasks.

The statements are PostgreSQL's; SQLite runs the same probes one by one in its thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dwarf_nats.rules.rows import PriorityBacklog
from dwarf_nats.rules.scheduling.values import Page, PageRequest, QueueHead, Share
from dwarf_nats.store.dialect import NOW
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    import sqlite3

    from dwarf_nats.store.database import Row

RIPE = f"status = 'pending' and parked = {Parked.NO:d} and not_before <= updated_at"
ASLEEP = f"status = 'pending' and parked = {Parked.NO:d} and not_before > updated_at"
# In the order of an index, so that it is read no further than its first entry.
FIRST_RIPE = (
    f"select not_before from dwarf_steps where {RIPE} order by priority, fairness_key, not_before, step_id limit 1"
)
NEXT_AWAKE = f"select not_before from dwarf_steps where {ASLEEP} order by not_before limit 1"
SHUT_PROBES = 1_000
"""So many lanes of tasks that are passed over are stepped over in one look."""

# The first probe finds the best band; in the band asked for the walk begins at the key asked for.
_SURVEY = """
with recursive
best as materialized (
  select priority from dwarf_steps where {ripe} and priority > $1
  order by priority, fairness_key, not_before, step_id limit 1),
walk as (
  (select s.*, {counts} as n, 1 as probes from best b cross join lateral (
    select priority, fairness_key, url, not_before, fairness_weight from dwarf_steps
    where {ripe} and ({queue_head}) >= (b.priority, case when b.priority = $2 then $3 else '' end{url})
    order by {queue_head}, not_before, step_id limit 1) s)
  union all
  select s.*, w.n + {counts}, w.probes + 1 from walk w cross join lateral (
    select priority, fairness_key, url, not_before, fairness_weight from dwarf_steps
    where {ripe} and ({queue_head}) > ({walked})
    order by {queue_head}, not_before, step_id limit 1) s
  where w.n < $4 and w.probes < $4 + {shut_probes})
select {now}, (select priority from best),
  (select not_before from dwarf_steps where {asleep} order by not_before limit 1),
  w.priority, w.fairness_key, w.url, w.not_before, w.fairness_weight, w.n, w.probes
from (select 1) one left join walk w on true
"""
SURVEY = _SURVEY.format(
    ripe=RIPE, asleep=ASLEEP, now=NOW, counts="1", queue_head="priority, fairness_key", walked="w.priority, w.fairness_key",
    url="", shut_probes=0,
)  # fmt: skip
SURVEY_PAST = _SURVEY.format(
    ripe=RIPE, asleep=ASLEEP, now=NOW, counts="(s.url <> all($5::text[]))::int", queue_head="priority, fairness_key, url",
    walked="w.priority, w.fairness_key, w.url", url=", case when b.priority = $2 then $6 else '' end",
    shut_probes=SHUT_PROBES,
)  # fmt: skip

# How long the line is, for people: the bands by skipping, of each the steps and the keys as far as they are counted.
DEPTHS = f"""
with recursive band as (
  (select priority from dwarf_steps where {RIPE} order by priority, fairness_key, not_before, step_id limit 1)
  union all
  select s.priority from band b cross join lateral (
    select priority from dwarf_steps where {RIPE} and priority > b.priority
    order by priority, fairness_key, not_before, step_id limit 1) s)
select b.priority, c.steps, k.keys, greatest(0, {NOW} - k.oldest)
from (select priority from band limit $1) b
cross join lateral (
  select count(*) as steps from (
    select 1 from dwarf_steps where {RIPE} and priority = b.priority
    order by fairness_key, not_before, step_id limit $2) s) c
cross join lateral (
  with recursive lane as (
    (select fairness_key, not_before, 1 as n from dwarf_steps where {RIPE} and priority = b.priority
     order by fairness_key, not_before, step_id limit 1)
    union all
    select s.*, l.n + 1 from lane l cross join lateral (
      select fairness_key, not_before from dwarf_steps
      where {RIPE} and priority = b.priority and fairness_key > l.fairness_key
      order by fairness_key, not_before, step_id limit 1) s
    where l.n < $3)
  select count(*) as keys, min(not_before) as oldest from lane) k
"""

RIPEN = f"""
with woken as materialized (
  select ctid from dwarf_steps where {ASLEEP} and not_before <= {NOW}
  order by not_before limit $1 for update skip locked)
update dwarf_steps s set updated_at = {NOW} from woken w where s.ctid = w.ctid returning s.step_id
"""

# A row that was locked is found again by its place, `ctid`: it cannot move, and the planner has no other way to take.
#
# The shares come in the order of their turn and are served one by one, so that the limit cuts off the last ones unread
# and unlocked.
PICK = f"""
with share as materialized (
  select * from unnest($4::int[], $5::text[], $6::int[], $7::int[]) as r(priority, fairness_key, n, skip)),
picked as materialized (
  select s.ctid, s.flow_id from share r cross join lateral (
    select ctid, flow_id from dwarf_steps
    where {RIPE} and priority = r.priority and fairness_key = r.fairness_key and not_before <= {NOW}
    order by not_before, step_id limit r.n offset r.skip for update skip locked) s
  limit $1)
"""
# Tasks with an allowance give no more than that in all; 0 passes them over.
PICK_PAST = f"""
with recursive
share as materialized (
  select * from unnest($4::int[], $5::text[], $6::int[], $7::int[])
  with ordinality as r(priority, fairness_key, n, skip, turn)),
allowance as materialized (select * from unnest($8::text[], $9::int[]) as a(url, most)),
lane as (
  select r.*, u.url from share r cross join lateral (
    select url from dwarf_steps where {RIPE} and priority = r.priority and fairness_key = r.fairness_key
    order by url, not_before, step_id limit 1) u
  union all
  select l.priority, l.fairness_key, l.n, l.skip, l.turn, u.url from lane l cross join lateral (
    select url from dwarf_steps where {RIPE} and priority = l.priority and fairness_key = l.fairness_key and url > l.url
    order by url, not_before, step_id limit 1) u),
allowed as (select l.*, a.most from lane l left join allowance a on a.url = l.url),
candidate as (
  select l.turn, l.n, l.skip, l.url, l.most, s.place as at, s.step_id, s.not_before from allowed l cross join lateral (
    select ctid as place, step_id, not_before from dwarf_steps
    where {RIPE} and priority = l.priority and fairness_key = l.fairness_key and url = l.url and not_before <= {NOW}
    order by not_before, step_id limit least(l.n + l.skip, l.most)) s),
placed as (select *, row_number() over (partition by turn order by not_before, step_id) as place from candidate),
rationed as (
  select *, row_number() over (partition by url order by turn, place) as nth from placed
  where place > skip and place <= skip + n),
-- Locked only now, so that what is not taken is left alone; what another replica is about to take is passed over.
picked as materialized (
  select s.ctid, s.flow_id from (select at from rationed where nth <= most or most is null order by turn, place limit $1) c
  cross join lateral (
    select ctid, flow_id from dwarf_steps where ctid = c.at and {RIPE} for update skip locked) s)
"""


def survey_args(ask: PageRequest, blocked_tasks: Collection[str]) -> tuple[str, tuple[Any, ...]]:
    """The statement that reads a page, and its parameters."""
    plain = (ask.floor, ask.band, ask.fairness_key, ask.limit)
    return (SURVEY_PAST, (*plain, list(blocked_tasks), ask.url)) if blocked_tasks else (SURVEY, plain)


def page_of(rows: Sequence[Row], ask: PageRequest, blocked_tasks: Collection[str]) -> Page:
    """The page in the rows of a survey."""
    now, best, next_due_at = rows[0][:3]
    lanes = [QueueHead(*row[3:8]) for row in rows if row[3] is not None]
    full = bool(lanes) and (rows[-1][8] >= ask.limit or rows[-1][9] >= ask.limit + _shut_probes(blocked_tasks))
    return Page(now, best, lanes, full, next_due_at)


def _shut_probes(blocked_tasks: Collection[str]) -> int:
    return SHUT_PROBES if blocked_tasks else 0


def columns(shares: Sequence[Share]) -> tuple[list[int], list[str], list[int], list[int]]:
    """Shares as PostgreSQL takes them."""
    return (
        [share.priority for share in shares],
        [share.fairness_key for share in shares],
        [share.steps for share in shares],
        [share.skip for share in shares],
    )


# -- SQLite

_KEY = "select priority, fairness_key, url, not_before, fairness_weight from dwarf_steps indexed by dwarf_steps_ripe"
_LANE = "select priority, fairness_key, url, not_before, fairness_weight from dwarf_steps indexed by dwarf_steps_lane"
_KEY_ORDER = "order by priority, fairness_key, not_before, step_id limit 1"
_LANE_ORDER = "order by priority, fairness_key, url, not_before, step_id limit 1"
# The first lane not before a given one. SQLite reads `(a, b) > (?, ?)` as `>=` and then walks through all that is equal, so the
# next lane is looked for column by column.
KEY_FROM = f"{_KEY} where {RIPE} and (priority, fairness_key) >= (?, ?) {_KEY_ORDER}"
LANE_FROM = f"{_LANE} where {RIPE} and (priority, fairness_key, url) >= (?, ?, ?) {_LANE_ORDER}"
NEXT_BAND = f"{_KEY} where {RIPE} and priority > ? {_KEY_ORDER}"
NEXT_KEY = f"{_KEY} where {RIPE} and priority = ? and fairness_key > ? {_KEY_ORDER}"
LANE_BAND = f"{_LANE} where {RIPE} and priority > ? {_LANE_ORDER}"
LANE_KEY = f"{_LANE} where {RIPE} and priority = ? and fairness_key > ? {_LANE_ORDER}"
LANE_TASK = f"{_LANE} where {RIPE} and priority = ? and fairness_key = ? and url > ? {_LANE_ORDER}"
WAKES = f"select not_before from dwarf_steps indexed by dwarf_steps_asleep where {ASLEEP} order by not_before limit 1"
BEST = f"select priority from dwarf_steps indexed by dwarf_steps_ripe where {RIPE} and priority > ? {_KEY_ORDER}"
RIPEN_SQLITE = f"""
update dwarf_steps set updated_at = ?1 where step_id in (
  select step_id from dwarf_steps indexed by dwarf_steps_asleep where {ASLEEP} and not_before <= ?1
  order by not_before limit ?2)
"""
KEY_STEPS = f"""
select step_id from dwarf_steps indexed by dwarf_steps_ripe
where {RIPE} and priority = ? and fairness_key = ? and not_before <= ?
order by not_before, step_id limit ? offset ?
"""
BAND_STEPS = f"""
select count(*) from (select 1 from dwarf_steps indexed by dwarf_steps_ripe where {RIPE} and priority = ? limit ?)
"""
NEXT_TASK = f"""
select url from dwarf_steps indexed by dwarf_steps_lane
where {RIPE} and priority = ? and fairness_key = ? and url > ? order by url, not_before, step_id limit 1
"""
LANE_STEPS = f"""
select not_before, step_id, url from dwarf_steps indexed by dwarf_steps_lane
where {RIPE} and priority = ? and fairness_key = ? and url = ? and not_before <= ? order by not_before, step_id limit ?
"""


def peek(connection: sqlite3.Connection, now: int, ask: PageRequest, blocked_tasks: Collection[str]) -> Page:
    """Read a page."""
    best, next_due_at = connection.execute(f"select ({BEST}), ({WAKES})", (ask.floor,)).fetchone()
    if best is None:
        return Page(now, None, [], False, next_due_at)
    start = (best, ask.fairness_key, ask.url) if best == ask.band else (best, "", "")
    begin, following = (
        (LANE_FROM, (LANE_TASK, LANE_KEY, LANE_BAND)) if blocked_tasks else (KEY_FROM, (NEXT_KEY, NEXT_BAND))
    )
    found = connection.execute(begin, start[: len(following)]).fetchone()
    lanes: list[QueueHead] = []
    counted = 0
    while found is not None:
        lanes.append(QueueHead(*found))
        counted += lanes[-1].url not in blocked_tasks
        if counted >= ask.limit or len(lanes) >= ask.limit + _shut_probes(blocked_tasks):
            return Page(now, best, lanes, True, next_due_at)
        found = _next(connection, lanes[-1], following)
    return Page(now, best, lanes, False, next_due_at)


def _next(connection: sqlite3.Connection, queue_head: QueueHead, following: Sequence[str]) -> Row | None:
    for place, probe in enumerate(following):
        found = connection.execute(probe, queue_head[: len(following) - place]).fetchone()
        if found is not None:
            return found  # type: ignore[no-any-return]
    return None


def depths(connection: sqlite3.Connection, now: int, bands: int, steps: int, keys: int) -> list[PriorityBacklog]:
    """The bands with due steps, as `DEPTHS` reads them."""
    found: list[PriorityBacklog] = []
    queue_head = connection.execute(NEXT_BAND, (0,)).fetchone()
    while queue_head is not None and len(found) < bands:
        priority, count, oldest = queue_head[0], 0, now
        while queue_head is not None and count < keys:
            count, oldest = count + 1, min(oldest, queue_head[3])
            queue_head = connection.execute(NEXT_KEY, (priority, queue_head[1])).fetchone()
        number = connection.execute(BAND_STEPS, (priority, steps)).fetchone()[0]
        found.append(PriorityBacklog(priority, number, count, now - oldest))
        queue_head = connection.execute(NEXT_BAND, (priority,)).fetchone()
    return found


def pick(
    connection: sqlite3.Connection, now: int, limit: int, shares: Sequence[Share], task_budgets: Mapping[str, int]
) -> list[int]:
    """The steps to claim, best first."""
    left = dict(task_budgets)
    picked: list[int] = []
    taken: set[int] = set()
    for share in shares:
        count = min(share.steps, limit - len(picked))
        if count <= 0:
            break
        if task_budgets:
            picked += _merged(connection, now, share, count, left, taken)
        else:
            rows = connection.execute(KEY_STEPS, (share.priority, share.fairness_key, now, count, share.skip))
            picked += [row[0] for row in rows]
    return picked


def _merged(
    connection: sqlite3.Connection, now: int, share: Share, count: int, left: dict[str, int], taken: set[int]
) -> list[int]:
    """The steps of a key that have been due longest, of those tasks that may be asked; `left` says how often."""
    candidates: list[tuple[int, int, str]] = []
    task = connection.execute(NEXT_TASK, (share.priority, share.fairness_key, "")).fetchone()
    while task is not None:
        if left.get(task[0], 1) > 0:
            queue_head = (share.priority, share.fairness_key, task[0], now, count + share.skip)
            candidates += connection.execute(LANE_STEPS, queue_head)
        task = connection.execute(NEXT_TASK, (share.priority, share.fairness_key, task[0])).fetchone()
    picked: list[int] = []
    for _, step_id, url in sorted(candidates):
        if len(picked) == count:
            break
        if step_id not in taken and left.get(url, 1) > 0:
            picked.append(step_id)
            if url in left:
                left[url] -= 1
    taken.update(picked)
    return picked
