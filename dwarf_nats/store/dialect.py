"""The SQL in which PostgreSQL and SQLite differ, in one table for each, and the expressions that several statements share.

Most statements are written once, in the SQL that both databases understand, with parameters `$1 … $n` and these macros:

| macro | meaning |
|---|---|
| `{now}` | the database's clock in microseconds since the epoch; the same all through a transaction |
| `{greatest}` | the function that gives the greatest of its arguments |
| `{in:$1}`, `{in_text:$1}` | is a member of an array parameter, of integers or of texts |
| `{regexp}` | matches a regular expression |
| `{message:error}` | the message of a stored error |
| `{size:changes}` | about how many bytes a text has, where that can be told without reading it |
| `{flow_of:t}` | joins `f`, the flow of a row of `t`, looked up after that row whatever is known of the tables |
| `{for_update}`, `{for_share}` | lock the rows |
| `{skip_locked}` | lock the rows nobody holds, pass over the others |
| `{this_transaction}`, `{oldest_transaction}` | the numbers of this transaction, and of the oldest that runs |

Where one text will not do, a `Statement` has one for each database, and the driver takes its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from dwarf_nats.rules.leases import LEASE_GRACE_MS
from dwarf_nats.rules.lifecycle import (
    FLOW_LIVE,
    FLOW_UNSTOPPED,
    STEP_UNBEGUN,
    STEP_UNDER_WAY,
    flow_sources,
    step_sources,
)
from dwarf_nats.workflow.status import TERMINAL, Parked, Status

_PARAMETER = re.compile(r"\$(\d+)")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that each database has in its own words; macros may stand in both."""

    postgres: str
    sqlite: str


Sql = str | Statement


class Dialect:
    """The words of one database: macro → text, in which `{}` stands for the macro's argument."""

    def __init__(self, words: Mapping[str, str], parameter: str, own: Callable[[Statement], str]) -> None:
        self._words = words
        self._macro = re.compile(rf"\{{({'|'.join(words)})(?::([\w.$]+))?\}}")
        self._parameter = parameter
        self._own = own
        self.text = functools.lru_cache(maxsize=512)(self._expanded)
        """A statement as this database takes it."""

    def _expanded(self, statement: Sql) -> str:
        sql = self._own(statement) if isinstance(statement, Statement) else statement
        sql = self._macro.sub(lambda macro: self._words[macro[1]].replace("{}", macro[2] or ""), sql)
        return sql if self._parameter == "$" else _PARAMETER.sub(rf"{self._parameter}\1", sql)


POSTGRES = Dialect(
    {
        "now": "(extract(epoch from now()) * 1000000)::bigint",
        "greatest": "greatest",
        "in": "= any({}::bigint[])",
        "in_text": "= any({}::text[])",
        "regexp": "~",
        # No text of PostgreSQL holds a NUL: one that is escaped in the JSON reads as a blank.
        "message": "replace({}, '\\u0000', '\\u0020')::json ->> 'message'",
        "size": "octet_length({})",
        # `offset 0` keeps it a query of its own, which cannot come first.
        "flow_of": "cross join lateral (select * from dwarf_flows where flow_id = {}.flow_id offset 0) f",
        "for_update": "for update",
        "for_share": "for share",
        "skip_locked": "for update skip locked",
        "this_transaction": "txid_current()",
        "oldest_transaction": "txid_snapshot_xmin(txid_current_snapshot())",
    },
    parameter="$",
    own=attrgetter("postgres"),
)
SQLITE = Dialect(
    {
        "now": "dwarf_now()",
        "greatest": "max",
        "in": "in (select value from json_each({}))",
        "in_text": "in (select value from json_each({}))",
        "regexp": "regexp",
        "message": "json_extract({}, '$.message')",
        "size": "length({})",
        "flow_of": "cross join dwarf_flows f on f.flow_id = {}.flow_id",
        # There is one transaction at a time, and nobody else holds locks.
        "for_update": "",
        "for_share": "",
        "skip_locked": "",
        "this_transaction": "0",
        "oldest_transaction": "1",
    },
    parameter="?",
    own=attrgetter("sqlite"),
)


def listed(statuses: Iterable[Status]) -> str:
    """Statuses as a list of SQL, in their order."""
    return "(" + ", ".join(f"'{status}'" for status in sorted(statuses, key=list(Status).index)) + ")"


LIVE = listed(FLOW_LIVE)
UNSTOPPED = listed(FLOW_UNSTOPPED)
CANCELLABLE = listed(flow_sources(Status.CANCELLED))
UNFINISHED = listed(step_sources(Status.CANCELLED))
"""A step from which something may still follow."""
UNDER_WAY = listed(STEP_UNDER_WAY)
UNBEGUN = listed(STEP_UNBEGUN)
ENDED = listed(TERMINAL)
NOW = POSTGRES.text("{now}")


def parked_if_tripped(url: str = "url") -> str:
    """The value of `parked` for a step that becomes pending; `url` is the column of its task."""
    return f"(case when {url} in (select t.url from dwarf_tripped t) then {Parked.BREAKER:d} else {Parked.NO:d} end)"


PARKED = parked_if_tripped()


def lease(budget_ms: str) -> str:
    """Microseconds a claim holds, in SQL (`rules.leases`)."""
    return f"({budget_ms} + {LEASE_GRACE_MS}) * 1000"
