"""The tables as they are, read past the engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from dwarf_nats.workflow.graph import Graph, Node

State = dict[str, Any]


class Row:
    """One row, its columns as attributes."""

    def __init__(self, values: Iterable[tuple[str, Any]]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    @property
    def merged(self) -> State:
        """A step's state and changes, a plain merge (S2, S3)."""
        return merge(json.loads(self.state), json.loads(self.changes))


def merge(state: State, changes: Mapping[str, Any]) -> State:
    """Changes win, a null removes."""
    found = {**state, **changes}
    return {name: value for name, value in found.items() if name not in changes or value is not None}


@dataclass
class Shard:
    """One database."""

    number: int
    flows: dict[int, Row]
    steps: dict[int, Row]
    graphs: dict[str, Graph]
    events: list[Row] = field(default_factory=list)
    of_flow: dict[int, list[Row]] = field(default_factory=dict)
    """The steps of each flow, by depth and id."""

    def __post_init__(self) -> None:
        for step in sorted(self.steps.values(), key=lambda step: (step.depth, step.step_id)):
            self.of_flow.setdefault(step.flow_id, []).append(step)
            if step.borrowed:
                step.state = self._whole(step.flow_id, step.state, step.borrowed)
        for flow in self.flows.values():
            if flow.final_borrowed:
                flow.final_state = self._whole(flow.flow_id, flow.final_state, flow.final_borrowed)

    def _whole(self, flow_id: int, state: str, borrowed: str) -> str:
        lent = {name: self._lent(flow_id, name, lender) for name, lender in json.loads(borrowed).items()}
        return json.dumps({**json.loads(state), **lent}, ensure_ascii=False, separators=(",", ":"))

    def _lent(self, flow_id: int, name: str, lender: int) -> Any:
        """A large field, from the step of the flow that holds it."""
        holder = self.steps.get(lender)
        if holder is None or holder.flow_id != flow_id:
            return f"<step {lender} of this flow, which should hold it, is not there>"
        return {**json.loads(holder.state), **json.loads(holder.changes)}.get(name, f"<not held by step {lender}>")

    def tree(self, flow_id: int) -> list[Row]:
        """A root flow and those it called, directly or not."""
        return [flow for flow in self.flows.values() if flow.root_id == flow_id]

    def node(self, step: Row) -> Node:
        """The node of a step, of one that compensates another, too."""
        graph = self.graphs[self.flows[step.flow_id].graph_digest]
        found: Node = graph.nodes.get(step.node) or graph.compensations[step.node]
        return found

    def shown(self, flow_id: int, began: float) -> list[str]:
        """The flow and its steps, a line each; times in seconds since `began`."""
        lines = []
        for flow in [self.flows[flow_id]] if flow_id in self.flows else []:
            lines.append(
                f"flow {self.number}-{flow.flow_id} {flow.workflow} {flow.status} root {flow.root_id}"
                f" caller {flow.surgraph_flow_id}/{flow.surgraph_step_id} error {flow.error} final {flow.final_state}"
            )
            for step in self.of_flow.get(flow_id, []):
                more = {
                    name: round(value / 1e6 - began, 3) if name in _TIMES else value
                    for name, value in vars(step).items()
                    if name not in _DULL and value not in (None, 0, "", "{}")
                }
                lines.append(f"  step {step.step_id} {step.node} {step.status} {more}")
        return lines


_DULL = {
    "step_id", "flow_id", "node", "url", "status", "token", "priority", "fairness_key", "fairness_weight", "created_at",
}  # fmt: skip
_TIMES = {"started_at", "updated_at", "not_before", "lease_expires", "wait_until"}


async def until_events_are_settled(dsn: str) -> None:
    """Wait until no event is under way: what a replica that died has left is taken up by others within seconds (0030)."""
    query = "select count(*) from dwarf_events where touched_at is not null"
    while await _count(dsn, query):
        await asyncio.sleep(0.2)


async def _count(dsn: str, query: str) -> int:
    if dsn.startswith("sqlite:"):
        with contextlib.closing(sqlite3.connect(f"file:{dsn.removeprefix('sqlite:///')}?mode=ro", uri=True)) as opened:
            ((found,),) = opened.execute(query)
            return int(found)
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


async def read(number: int, dsn: str) -> Shard:
    """All there is on a shard."""
    tables = {}
    names = ("dwarf_flows", "dwarf_steps", "dwarf_graphs", "dwarf_events")
    if dsn.startswith("sqlite:"):
        with sqlite3.connect(f"file:{dsn.removeprefix('sqlite:///')}?mode=ro", uri=True) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("begin")
            for name in names:
                tables[name] = [
                    Row(zip(row.keys(), row, strict=True)) for row in connection.execute(f"select * from {name}")
                ]
        connection.close()
    else:
        connection_ = await asyncpg.connect(dsn)
        try:
            async with connection_.transaction(isolation="repeatable_read"):
                for name in names:
                    tables[name] = [Row(row.items()) for row in await connection_.fetch(f"select * from {name}")]
        finally:
            await connection_.close()
    return Shard(
        number,
        {row.flow_id: row for row in tables["dwarf_flows"]},
        {row.step_id: row for row in tables["dwarf_steps"]},
        {row.digest: Graph.from_json(row.body) for row in tables["dwarf_graphs"]},
        tables["dwarf_events"],
    )
