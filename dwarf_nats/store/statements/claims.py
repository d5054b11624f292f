"""Read the claims in rows, in pages by primary key (B10)."""

from __future__ import annotations

from dataclasses import dataclass

PATTERN = '%"$claim"%'
STEP_TEXTS = (
    "state",
    "changes",
    "error",
    "cohort_error",
    "interrupt_payload",
    "resumed",
    "subgraph_result",
    "subgraph_error",
    "parked_changes",
    "event",
    "attempts",
    "progress",
)
"""All columns of a step that hold what came from outside."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A table whose rows may hold claims. `start`: the place before its first row. `where`: a condition on its rows."""

    table: str
    key: tuple[str, ...]
    start: tuple[int | str, ...]
    texts: tuple[str, ...]
    where: str = ""

    @property
    def page(self) -> str:
        """Parameters: the place, the most rows, the pattern, and what the condition takes."""
        keys, count = ", ".join(self.key), len(self.key)
        place = ", ".join(f"${number}" for number in range(1, count + 1))
        text = " || ' ' || ".join(f"coalesce({column}, '')" for column in self.texts)
        more = f" and {self.where}" if self.where else ""
        return (
            f"select {keys}, case when texts like ${count + 2} then texts end from (select {keys}, {text} as texts"
            f" from {self.table} where ({keys}) > ({place}){more} order by {keys} limit ${count + 1}) p order by {keys}"
        )


HOLDERS = {
    "outbox": Holder("dwarf_outbox", ("row_id",), (-1,), ("state", "options")),
    "schedules": Holder("dwarf_schedules", ("name",), ("",), ("body",)),
    "definitions": Holder("dwarf_definitions", ("kind", "name"), ("", ""), ("body",)),
    "graphs": Holder("dwarf_graphs", ("digest",), ("",), ("body",)),
    "events": Holder("dwarf_events", ("event", "key", "number"), ("", "", -1), ("data",)),
    "flows": Holder("dwarf_flows", ("flow_id",), (-1,), ("final_state", "error", "baggage")),
    "steps": Holder("dwarf_steps", ("step_id",), (-1,), STEP_TEXTS),
}
OF_FLOWS = Holder("dwarf_steps", ("flow_id", "depth", "step_id"), (-1, -1, -1), STEP_TEXTS, where="flow_id {in:$6}")
RECENT = (
    "select flow_id, case when created_at >= $2 or updated_at >= $2 or coalesce(restarted_at, 0) >= $2 then 1 else 0 end"
    " from dwarf_flows where flow_id > $1 order by flow_id limit $3"
)
NOW = "select {now}"
