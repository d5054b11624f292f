"""One flow: its graph, timeline, steps, state and log, live, and what can be done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dwarf_nats.console.console import Console
from dwarf_nats.console.live import Change, Update, View
from dwarf_nats.console.pages import flow_actions
from dwarf_nats.console.pages.flow_reading import FlowReading, read_flow
from dwarf_nats.console.pages.flow_values import TABS, FlowValues, Place
from dwarf_nats.console.source import Source, flow_id_of
from dwarf_nats.console.views import wire
from dwarf_nats.console.views.layout import Layouts
from dwarf_nats.errors import Forbidden, NotFound

THREAD_MIN_STEPS = 500
"""Steps from which a page is put together in a thread, so that others are served meanwhile."""
STEPS_PER_SECOND = 2_000
"""A flow with more steps is read less often than once a second: once for so many."""
PART = "x-part"
"""Header of the script, which asks for the drawer alone."""


def routes(console: Console) -> list[Route]:
    """The routes of one flow, and its live view."""
    page = FlowPage(console)
    console.views["flow"] = page.view
    return [
        Route("/flow/{flow}", page.show),
        *flow_actions.routes(console),
        Route("/flow/{flow}/{tab}", page.show),
    ]


class FlowPage:
    """Shows one flow."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.layouts = Layouts()

    async def show(self, request: Request) -> Response:
        """The page, or only its drawer for the script."""
        place = place_of(request)
        source = await self._console.source_of(request)
        reading = await read_flow(source, place.flow)
        values = await _made(reading, FlowValues(reading, place, self.layouts).shared)
        drawer = await self._drawer(source, reading, place)
        if request.headers.get(PART) == "drawer":
            frame = {"csrf": self._console.tokens.token(request.state.visitor), "may": source.may}
            frame["payloads"] = self._console.settings.payloads
            return HTMLResponse(self._console.html("flow_drawer.html", **frame, **values, **drawer))
        values |= await _made(reading, FlowValues(reading, place, self.layouts).tab)
        title = f"{place.flow} {reading.outcome.workflow}"
        return await self._console.page(request, "flow.html", section="flows", title=title, **values, **drawer)

    async def _drawer(self, source: Source, reading: FlowReading, place: Place) -> dict[str, Any]:
        """The values of the drawer, if the address names a step or a node."""
        values = FlowValues(reading, place, self.layouts)
        if place["step"]:
            step = reading.step(place["step"])
            whole: wire.Step | None = None
            if source.payloads:
                try:
                    whole = wire.read(wire.Step, await source.step(step.step, reading.flow))
                except Forbidden:
                    whole = None
            found = {"drawer": "step", **values.step(step, whole)}
            if step.sub_flow:
                found["child"] = await self._child(source, step.sub_flow)
            return found
        if place["node"]:
            return {"drawer": "node", **values.node(place.number("node"))}
        return {"drawer": ""}

    async def _child(self, source: Source, flow: str) -> dict[str, Any]:
        """The graph of a flow that a step called, opened in place."""
        reading = await read_flow(source, flow)
        values = FlowValues(reading, Place(flow, "graph", {}), self.layouts)
        layout = self.layouts.of(reading.graph)
        if layout.too_large:
            return {"reading": reading, "svg": None}
        return {"reading": reading, "svg": values.graph_alone("c")}

    def view(self, request: Request, source: Source) -> View:
        """The live view of a tab of a flow."""
        params = dict(request.query_params)
        place = Place(flow_id_of(params.pop("flow", "")), params.pop("tab", "graph"), params)
        if place.tab not in TABS:
            raise NotFound("there is no such live view")
        return FlowView(self._console, source, place, self.layouts)


def place_of(request: Request) -> Place:
    """The place that an address names. Raises `NotFound`."""
    tab = request.path_params.get("tab", "graph")
    if tab not in TABS:
        raise NotFound(f"there is nothing at {request.url.path}")
    return Place(flow_id_of(request.path_params["flow"]), tab, {k: v for k, v in request.query_params.items() if v})


async def _made(reading: FlowReading, make: Any) -> dict[str, Any]:
    """Make values; those of a long history in a thread."""
    if len(reading.steps) > THREAD_MIN_STEPS:
        made: dict[str, Any] = await asyncio.to_thread(make)
        return made
    found: dict[str, Any] = make()
    return found


class FlowView(View):
    """The changing parts of a flow's page: header, sentence, actions, and the tab; of the graph, texts and classes only."""

    def __init__(self, console: Console, source: Source, place: Place, layouts: Layouts) -> None:
        self.source = source
        self.key = ("flow", place.flow, place.tab, tuple(sorted(place.params.items())))
        self._console = console
        self._place = place
        self._layouts = layouts

    def concerns(self, change: Change) -> bool:
        return change.flow_id == self._place.flow

    async def stamp(self) -> str | None:
        return str((await self.source.fingerprint(self._place.flow))["fingerprint"])

    async def render(self) -> Update:
        reading = await read_flow(self.source, self._place.flow)
        self.beat_seconds = max(View.beat_seconds, len(reading.steps) / STEPS_PER_SECOND, 3.0 if reading.over else 0.0)
        if len(reading.steps) > THREAD_MIN_STEPS:
            return await asyncio.to_thread(self._update, reading)
        return self._update(reading)

    def _update(self, reading: FlowReading) -> Update:
        values = FlowValues(reading, self._place, self._layouts)
        shared: Mapping[str, Any] = {**values.shared(), "may": self.source.may, "payloads": self.source.payloads}
        html = {
            "flow-facts": self._console.html("flow_facts.html", **shared),
            "flow-why": self._console.html("flow_why.html", **shared),
        }
        if self._place.tab == "graph":
            drawn = values.drawing()
            if drawn is None:
                return Update(html=html)
            return Update(html={**html, **drawn[1].inner}, classes=drawn[1].classes)
        tab = self._place.tab
        html[f"flow-{tab}"] = self._console.html(f"flow_{tab}.html", **shared, **values.tab())
        return Update(html=html)
