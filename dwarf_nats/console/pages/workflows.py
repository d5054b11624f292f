"""The workflows: their graphs, how their newest flows fared, and a form that starts a flow."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dwarf_nats.console.actions import json_value
from dwarf_nats.console.console import Console
from dwarf_nats.console.rates import Rates, by_workflow
from dwarf_nats.console.source import Source
from dwarf_nats.console.tags import tags_in
from dwarf_nats.console.views.forms import Form, answer, form_of
from dwarf_nats.console.views.graph import DrawnGraph, read_graph
from dwarf_nats.console.views.graph_svg import GraphDrawing
from dwarf_nats.console.views.graph_table import table
from dwarf_nats.console.views.layout import Layouts
from dwarf_nats.errors import BadRequest, Forbidden, NotFound
from dwarf_nats.workflow.names import check_subject_name

SAMPLE_FLOWS = 500
"""Newest flows that rates and durations are made from."""
SAMPLE_SECONDS = 10.0
"""Age up to which that sample is used again."""
VERSION_FLOWS = 10
"""Newest flows of a workflow whose graph is read, to tell versions."""
_LAYOUTS = Layouts()


def routes(console: Console) -> list[Route]:
    """The routes of the list, of one workflow, and of the form that starts a flow."""

    async def show_all(request: Request) -> Response:
        source = await console.source_of(request)
        graphs, rates = await asyncio.gather(registered(source), sampled(source))
        names = sorted({*graphs, *rates}, key=str.casefold)
        rows = [(name, graphs.get(name), rates.get(name, Rates())) for name in names]
        return await console.page(
            request, "workflows.html", section="workflows", title="Workflows", rows=rows, sample=SAMPLE_FLOWS
        )

    async def show(request: Request) -> Response:
        source = await console.source_of(request)
        name = _name(request)
        values = await _workflow(source, name)
        return await console.page(request, "workflow.html", section="workflows", title=name, name=name, **values)

    async def start(request: Request) -> Response:
        name = _name(request)
        form = await console.form(request)
        source = await console.source_of(request)
        once = str(form.get("once", ""))[:64]
        declared = start_form((await _workflow(source, name))["graph"] or {})
        reply = await source.act(
            "flow.create", creation(name, form, declared), actor=console.user_of(request), idempotency_key=once
        )
        console.hub.touch(reply["flow"])
        return console.done(request, "Started.", location=f"/flow/{quote(reply['flow'])}")

    return [
        Route("/workflows", show_all),
        Route("/workflow/{name}", show),
        Route("/workflow/{name}/start", start, methods=["POST"]),
    ]


def _name(request: Request) -> str:
    name = str(request.path_params["name"])
    try:
        check_subject_name(name, "workflow")
    except BadRequest:
        raise NotFound(f"there is no workflow {name[:80]}") from None
    return name


async def registered(source: Source) -> dict[str, dict[str, Any]]:
    """The registered graphs by name; none for a user who may not list them."""
    try:
        return {one["name"]: one for one in await source.graphs()}
    except Forbidden:
        return {}


async def sampled(source: Source, workflow: str = "") -> dict[str, Rates]:
    """The rates of the workflows of the newest flows."""
    query = {"limit": SAMPLE_FLOWS, **({"workflow": workflow} if workflow else {})}
    page = await source.read("flow.list", query, seconds=SAMPLE_SECONDS)
    return by_workflow(page["flows"])


async def _workflow(source: Source, name: str) -> dict[str, Any]:
    graphs, rates = await asyncio.gather(registered(source), sampled(source, name))
    newest = (await source.flows({"workflow": name, "limit": VERSION_FLOWS}))["flows"]
    versions = await _versions(source, newest)
    if name not in graphs and not newest:
        raise NotFound(f"there is no workflow {name}: it is not registered, and no flow of it is there")
    graph = await source.graph(name) if name in graphs else next(iter(versions.values()))["graph"] if versions else None
    declared = start_form(graph or {}).fields
    shown = read_graph(graph) if graph else None
    return {
        "registered": graphs.get(name),
        "rates": rates.get(name, Rates()),
        "sample": SAMPLE_FLOWS,
        "newest": newest,
        "versions": versions,
        "graph": graph,
        "needed": [one for one in declared if one.required],
        "optional": [one for one in declared if not one.required],
        "svg": drawing(shown),
        "graph_shown": shown,
        "rows": table(shown) if shown is not None else [],
        "once": secrets.token_hex(16),
    }


def drawing(graph: DrawnGraph | None) -> Markup | None:
    """The drawing of a graph; nothing for none, or for one that is too large."""
    if graph is None:
        return None
    layout = _LAYOUTS.of(graph)
    if layout.too_large:
        return None
    drawn = GraphDrawing(graph, layout)
    return drawn.svg(drawn.plain())


async def _versions(source: Source, flows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The graphs of these flows by digest, newest first: the graph, and how many of the flows run it."""
    read = (source.read("flow.graph", {"flowKey": one["flow"]}, seconds=SAMPLE_SECONDS) for one in flows)
    found: dict[str, dict[str, Any]] = {}
    for flow, reply in zip(flows, await asyncio.gather(*read, return_exceptions=True), strict=True):
        if isinstance(reply, BaseException):
            continue  # deleted meanwhile, or not permitted
        version = found.setdefault(reply["digest"], {"graph": reply["graph"], "flows": 0, "newest": flow["createdAt"]})
        version["flows"] += 1
    return found


def start_form(graph: Mapping[str, Any]) -> Form:
    """The form for the fields that a graph declares."""
    fields = {name: one for name, one in (graph.get("fields") or {}).items() if isinstance(one, Mapping)}
    required = [name for name, one in fields.items() if one.get("required")]
    return form_of({"form": {"properties": fields, "required": required}})


def creation(workflow: str, form: FormData | Mapping[str, Any], declared: Form) -> dict[str, Any]:
    """The request that a form makes. Raises `BadRequest` for fields that cannot be right."""
    fields: dict[str, Any] = {"workflow": workflow, "start": True}
    texts = {name: str(value) for name, value in form.items()}
    more = json_value("state", texts["state"]) if texts.get("state", "").strip() else {}
    if not isinstance(more, dict):
        raise BadRequest("state must be a JSON object: write it in braces")
    asked = Form([one for one in declared.fields if one.name not in more])
    if state := {**answer(asked, texts), **more}:
        fields["state"] = state
    options: dict[str, Any] = {}
    if str(form.get("priority", "")).strip():
        options["priority"] = json_value("priority", str(form["priority"]))
    if str(form.get("fairnessKey", "")).strip():
        options["fairnessKey"] = str(form["fairnessKey"]).strip()
    if tags := tags_in(texts.get("tags", "")):
        options["tags"] = tags
    if options:
        fields["options"] = options
    return fields
