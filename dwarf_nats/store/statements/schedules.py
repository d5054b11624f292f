"""Schedules: found by the time at which somebody must look at them (R3).

`dwarf_schedules_wake` holds exactly the schedules that have such a time, in its order: the next one is its first entry, however
many there are.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from dwarf_nats.ports.schedules import ClaimedSchedules
from dwarf_nats.rules.schedules import ScheduleRow
from dwarf_nats.store.columns import field_names, select_list

if TYPE_CHECKING:
    from dwarf_nats.store.database import Tx

_COLUMNS = field_names(ScheduleRow)
_SELECT = f"select {select_list(ScheduleRow)} from dwarf_schedules"
NEXT_WAKE = "select wake_at from dwarf_schedules where wake_at is not null order by wake_at limit 1"
NEXT_AND_NOW = f"select ({NEXT_WAKE}), {{now}}"
# A row that another replica has locked is being claimed or changed there. `fired_at` stays: what is done again for a due time
# is done with the same values.
CLAIM = f"""
with due as materialized (
  select name from dwarf_schedules where wake_at is not null and wake_at <= {{now}} order by wake_at limit $1 {{skip_locked}})
update dwarf_schedules set claim = claim + 1, version = version + 1, wake_at = {{now}} + $2,
  fired_at = coalesce(fired_at, {{now}}), attempts = attempts + 1
where name in (select name from due) returning {", ".join(_COLUMNS)}
"""
GET = f"select {{now}}, s.* from (select 1 as one) o left join ({_SELECT} where name = $1) s on 1 = 1"
ADD = (
    f"insert into dwarf_schedules ({', '.join(_COLUMNS)})"
    f" values ({', '.join(f'${number}' for number in range(1, len(_COLUMNS) + 1))}) on conflict do nothing returning name"
)
_CHANGED = [name for name in _COLUMNS if name not in ("name", "version")]
SAVE = (
    f"update dwarf_schedules set version = version + 1,"
    f" {', '.join(f'{name} = ${number}' for number, name in enumerate(_CHANGED, 3))}"
    " where name = $1 and version = $2 returning name"
)
REMOVE = "delete from dwarf_schedules where name = $1 and version = $2 returning name"
PAGE = f"{_SELECT} where name > $1 and gone = 0 order by name limit $2"
PAGE_OF_WORKFLOW = f"{_SELECT} where workflow = $3 and name > $1 and gone = 0 order by name limit $2"
LATE = (
    "select count(*) from (select 1 from dwarf_schedules"
    " where fire_at is not null and fire_at < {now} - $1 limit $2) late"
)


async def claim(tx: Tx, limit: int, lease_us: int) -> ClaimedSchedules:
    """Claim schedules that are due (see `ports.schedules`)."""
    rows = [record(row) for row in await tx.fetch(CLAIM, limit, lease_us)]
    ((next_at, now),) = await tx.fetch(NEXT_AND_NOW)
    rows.sort(key=lambda row: (row.fire_at or 0, row.name))
    return ClaimedSchedules(rows, int(now), None if next_at is None else int(next_at) - int(now))


def values(row: ScheduleRow) -> tuple[Any, ...]:
    """The parameters of `ADD`."""
    return astuple(row)


def changes(row: ScheduleRow) -> tuple[Any, ...]:
    """The parameters of `SAVE`."""
    return (row.name, row.version, *(getattr(row, name) for name in _CHANGED))


def record(row: Any) -> ScheduleRow:
    """Read a row of the select list."""
    return ScheduleRow(**dict(zip(_COLUMNS, row, strict=True)))
