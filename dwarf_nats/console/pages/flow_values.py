"""The values that the templates of the flow page show, tab by tab."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from dwarf_nats.console.pages.flow_reading import FlowReading
from dwarf_nats.console.views import consequences, diff, headline, wire
from dwarf_nats.console.views.forms import answer_form
from dwarf_nats.console.views.graph_svg import Drawing, GraphDrawing
from dwarf_nats.console.views.graph_table import table
from dwarf_nats.console.views.layout import Direction, Layouts
from dwarf_nats.console.views.log import log
from dwarf_nats.console.views.text import iso, pretty, size, to_json
from dwarf_nats.console.views.timeline import timeline
from dwarf_nats.console.views.walk import Walk, shown_status, status_word, walk

TABS = {"graph": "Graph", "timeline": "Timeline", "steps": "Steps", "state": "State", "log": "Log"}
PAGE_ROWS = 100
"""Rows of a page of the steps and of the log."""
MAX_CELLS = 1_000
"""Branches that are shown one by one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a flow's page one is: its tab, and what the address says beside it."""

    flow: str
    tab: str
    params: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.params.get(name, "")

    def number(self, name: str) -> int:
        """A number in the address; 0 for what is none."""
        text = self[name]
        return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0

    def address(self, tab: str = "", **changes: Any) -> str:
        """The address of a tab; of this one with changed parameters, an empty value removes one."""
        path = f"/flow/{self.flow}" + ("" if (tab or self.tab) == "graph" else f"/{tab or self.tab}")
        if tab and tab != self.tab:
            return path
        params = {name: value for name, value in {**self.params, **changes}.items() if value not in ("", None)}
        return path + (f"?{urlencode(params)}" if params else "")

    def query(self, **changes: Any) -> str:
        """The part of the address behind the path; `?` without any."""
        params = {name: value for name, value in {**self.params, **changes}.items() if value not in ("", None)}
        return f"?{urlencode(params)}"

    @property
    def direction(self) -> Direction:
        return Direction.RIGHT if self["to"] == "right" else Direction.DOWN


class FlowValues:
    """Makes the values for one reading. `layouts`: where graphs are laid out once."""

    def __init__(self, reading: FlowReading, place: Place, layouts: Layouts) -> None:
        self._reading = reading
        self._place = place
        self._layouts = layouts

    def shared(self) -> dict[str, Any]:
        """The values that all tabs have: the header, the sentence, pauses, and what may be done."""
        reading = self._reading
        return {
            "place": self._place,
            "reading": reading,
            "outcome": reading.outcome,
            "over": reading.over,
            "tabs": TABS,
            "workflow": reading.graph.name or reading.outcome.workflow,
            "digest": reading.graph.digest,
            "started": iso(reading.started),
            "ended": iso(reading.ended),
            "updated": iso(reading.summary.updated_at if reading.summary else None),
            "thread": reading.summary.thread if reading.summary and reading.summary.thread != reading.flow else "",
            "caller": reading.caller,
            "tags": reading.outcome.tags or (reading.summary.tags if reading.summary else {}),
            "headline": self.headline(),
            "pauses": self.pauses(),
            "words": self.words(),
            "failed": headline.failed_step(reading.steps),
            "nodes": [name for name, node in reading.graph.nodes.items() if node.kind not in ("start", "end")],
            "iso": iso,
        }

    def headline(self) -> headline.Headline:
        return headline.headline(self._reading.outcome, self._reading.explanation, self._reading.steps)

    def words(self) -> dict[str, str]:
        """What each action on the whole flow will do."""
        reading = self._reading
        compensates = any(node.compensated for node in reading.graph.nodes.values())
        failed = headline.failed_step(reading.steps)
        return {
            "rerun": consequences.restart_from(reading.steps, failed) if failed is not None else "",
            "cancel": consequences.cancel(reading.steps, compensates=compensates),
            "restart": consequences.restart(reading.steps),
        }

    def pauses(self) -> list[dict[str, Any]]:
        """The pauses with the forms for their answers."""
        found = []
        for pause in self._reading.outcome.pauses:
            payload = pause.payload
            asked = headline.question(payload)
            if isinstance(payload, dict):
                payload = {name: one for name, one in payload.items() if name != "form" and one != asked}
            whole = payload not in (None, {}) and payload != asked
            found.append(
                {
                    "pause": pause,
                    "form": answer_form(pause, self._reading.graph),
                    "question": asked,
                    "payload": diff.tree(payload) if whole and isinstance(payload, dict) else [],
                    "since": iso(pause.since),
                    "until": iso(pause.until),
                }
            )
        return found

    # -- tabs

    def tab(self) -> dict[str, Any]:
        """The values of the tab that is shown."""
        makers = {
            "graph": self.graph,
            "timeline": self.timeline,
            "steps": self.steps,
            "state": self.state,
            "log": self.log,
        }
        return makers[self._place.tab]()

    def walked(self) -> Walk:
        return walk(self._reading.graph, self._reading.steps, self._reading.status)

    def drawing(self) -> tuple[GraphDrawing, Drawing] | None:
        """The drawing of the graph, unless it is too large."""
        layout = self._layouts.of(self._reading.graph, self._place.direction)
        if layout.too_large:
            return None
        reading = self._reading
        drawn = GraphDrawing(reading.graph, layout, flow=reading.flow, breakpoints=reading.outcome.breakpoints)
        return drawn, drawn.changing(self.walked())

    def graph_alone(self, scope: str) -> Markup:
        """The drawing of the graph within another page; its elements have ids of their own, and lead nowhere."""
        layout = self._layouts.of(self._reading.graph, Direction.DOWN)
        drawn = GraphDrawing(self._reading.graph, layout, scope=scope)
        return drawn.svg(drawn.changing(self.walked()))

    def graph(self) -> dict[str, Any]:
        drawn = self.drawing()
        if drawn is None:
            return {"svg": None, "rows": table(self._reading.graph, self.walked())}
        return {"svg": drawn[0].svg(drawn[1]), "right": self._place["to"] == "right"}

    def timeline(self) -> dict[str, Any]:
        opened = frozenset(filter(None, self._place["open"].split(",")))
        page = max(0, self._place.number("page") - 1)
        return {
            "timeline": timeline(self._reading.steps, self._reading.now, opened=opened, page=page),
            "opened": opened,
        }

    def steps(self) -> dict[str, Any]:
        """A page of the table of steps, filtered by status and node."""
        status, node = self._place["status"], self._place["node_name"]
        every = self._reading.steps
        found = [one for one in every if (not status or shown_status(one) == status) and (not node or one.task == node)]
        page = max(1, self._place.number("page"))
        return {
            "steps": [_row(one) for one in found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]],
            "matching": len(found),
            "every": len(every),
            "page": page,
            "pages": max(1, -(-len(found) // PAGE_ROWS)),
            "statuses": Counter(shown_status(one) for one in every),
            "chosen": status,
            "node": node,
        }

    def state(self) -> dict[str, Any]:
        state, sealed = self._reading.outcome.state, self._reading.graph.sealed
        text = to_json(state)
        return {
            "state_members": diff.tree(state, sealed),
            "json": pretty({name: value for name, value in state.items() if name not in sealed}),
            "size": size(len(text)),
        }

    def log(self) -> dict[str, Any]:
        entries = log(self._reading.steps)
        page = max(1, self._place.number("page"))
        return {
            "entries": entries[(page - 1) * PAGE_ROWS : page * PAGE_ROWS],
            "page": page,
            "pages": max(1, -(-len(entries) // PAGE_ROWS)),
            "matching": len(entries),
        }

    # -- drawers

    def node(self, number: int) -> dict[str, Any]:
        """The branches at a node, or its rounds."""
        graph = self._reading.graph
        node = next((one for one in graph.nodes.values() if one.number == number), None)
        if node is None:
            return {"node_found": None}
        state = self.walked().nodes[node.name]
        urgent = sorted(state.cells, key=lambda cell: cell.status == "completed")
        cells = state.cells if len(state.cells) <= MAX_CELLS else urgent[:MAX_CELLS]
        return {"node_found": node, "node_state": state, "cells": cells, "hidden": len(state.cells) - len(cells)}

    def step(self, step: wire.Step, whole: wire.Step | None) -> dict[str, Any]:
        """A step with its state before, changes and state after. `whole`: as it was read alone."""
        sealed = self._reading.graph.sealed
        steps = self._reading.steps
        values: dict[str, Any] = {
            "step": step,
            "row": _row(step),
            "node": self._reading.graph.nodes.get(step.task),
            "wait": next((one for one in self._reading.explanation.waits if one.step == step.step), None),
            "deadline": iso(step.deadline),
            "rerun_words": consequences.restart_from(steps, step),
            "fork_words": consequences.fork(steps, step),
        }
        if whole is not None and whole.state is not None:
            after = diff.after_changes(whole.state, whole.changes or {})
            values |= {
                "before": diff.tree(whole.state, sealed),
                "difference": diff.diff(whole.state, after, sealed),
                "after": diff.tree(after, sealed),
                "state_json": pretty({name: value for name, value in whole.state.items() if name not in sealed}),
                "after_json": pretty({name: value for name, value in after.items() if name not in sealed}),
                "sealed": sorted(sealed & {*whole.state, *after}),
            }
        if step.handled_error or step.error:
            values["error_json"] = pretty(step.failure)
        return values


def _row(step: wire.Step) -> dict[str, Any]:
    """A step as a row of the table."""
    return {
        "step": step,
        "status": shown_status(step),
        "look": "interrupted" if step.handled_error else shown_status(step),
        "icon": "alert" if step.handled_error else shown_status(step),
        "word": status_word(step),
        "created": iso(step.created_at),
        "queued": iso(step.queued_at or step.created_at),
        "claimed": iso(step.claimed_at or (None if step.queued_at else step.started_at)),
        "started": iso(step.started_at),
        "ended": iso(step.updated_at) if step.over else "",
        "due": iso(step.due_at),
        "branch": f"{step.branch.index + 1}/{step.branch.count}" if step.branch is not None else "",
        "error": str((step.failure or {}).get("message", "")),
        "code": (step.failure or {}).get("code"),
    }
