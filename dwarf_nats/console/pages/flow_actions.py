"""Forms of the flow page that are more than an operation's fields: answers, and steps run again with an edited state."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dwarf_nats.console.console import Console
from dwarf_nats.console.pages.flow_reading import FlowReading, read_flow
from dwarf_nats.console.source import Source, flow_id_of
from dwarf_nats.console.views import diff, forms, wire
from dwarf_nats.errors import BadRequest, Conflict, NotFound

MODES = {"restart_from": "flow.restart_from", "fork": "flow.fork"}


def routes(console: Console) -> list[Route]:
    """The routes of the forms."""
    forms_ = FlowForms(console)
    return [
        Route("/flow/{flow}/answer/{step}", forms_.answer, methods=["POST"]),
        Route("/flow/{flow}/rerun/{step}", forms_.rerun, methods=["POST"]),
        Route("/flow/{flow}/preview/{step}", forms_.preview, methods=["POST"]),
    ]


class FlowForms:
    """Carries out the forms."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def answer(self, request: Request) -> Response:
        """Answer a pause with what was filled in."""
        source = await self._console.source_of(request)
        form = await self._console.form(request)
        flow, step = flow_id_of(request.path_params["flow"]), request.path_params["step"]
        reading = await read_flow(source, flow)
        pause = next((one for one in reading.outcome.pauses if one.step == step), None)
        if pause is None:
            raise Conflict("this pause is over: somebody answered it, or its time ran out")
        given = {name: str(value) for name, value in form.multi_items()}
        data = forms.answer(forms.answer_form(pause, reading.graph), given)
        await source.act("flow.resume", {"stepKey": step, "data": data}, actor=self._console.user_of(request))
        self._console.hub.touch(flow)
        return self._console.done(request, "Answered: it goes on.", location=f"/flow/{quote(flow)}")

    async def rerun(self, request: Request) -> Response:
        """Restart from a step, or fork from it, with the state that was edited."""
        source = await self._console.source_of(request)
        form = await self._console.form(request)
        flow, step = flow_id_of(request.path_params["flow"]), request.path_params["step"]
        mode = str(form.get("mode", ""))
        if mode not in MODES:
            raise NotFound(f"there is no action {mode[:40]}")
        fields: dict[str, Any] = {"stepKey": step}
        overrides = await self._overrides(source, flow, step, str(form.get("state", "")))
        if overrides:
            fields["overrides"] = overrides
        reply = await source.act(MODES[mode], fields, actor=self._console.user_of(request))
        self._console.hub.touch(flow)
        target = reply.get("flow", flow) if mode == "fork" else flow
        text = "Forked: this is the copy." if mode == "fork" else "It runs again from there."
        return self._console.done(request, text, location=f"/flow/{quote(target)}")

    async def preview(self, request: Request) -> Response:
        """The differences that an edited state makes, or why it is none."""
        source = await self._console.source_of(request)
        form = await self._console.form(request)
        flow, step = flow_id_of(request.path_params["flow"]), request.path_params["step"]
        try:
            before, after, sealed = await self._edited(source, flow, step, str(form.get("state", "")))
        except BadRequest as error:
            return HTMLResponse(self._console.html("flow_preview.html", problem=error.message))
        overrides = _overrides(before, after)
        operation = MODES.get(str(form.get("mode", "")), "")
        fields = {"stepKey": step, **({"overrides": overrides} if overrides else {})}
        difference = diff.diff(before, after, sealed)
        values: dict[str, Any] = {"difference": difference, "operation": operation, "fields": fields}
        return HTMLResponse(self._console.html("flow_preview.html", **values))

    async def _overrides(self, source: Source, flow: str, step: str, text: str) -> dict[str, Any]:
        if not text.strip():
            return {}
        before, after, _ = await self._edited(source, flow, step, text)
        return _overrides(before, after)

    async def _edited(
        self, source: Source, flow: str, step: str, text: str
    ) -> tuple[dict[str, Any], dict[str, Any], frozenset[str]]:
        """The state of a step before and after an edit. Raises `BadRequest` for what is no state."""
        reading: FlowReading = await read_flow(source, flow)
        reading.step(step)
        whole = wire.read(wire.Step, await source.step(step, flow))
        sealed = reading.graph.sealed
        before = {name: value for name, value in (whole.state or {}).items() if name not in sealed}
        try:
            after = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise BadRequest(f"the state is not JSON: {error}") from None
        if not isinstance(after, dict):
            raise BadRequest("the state must be a JSON object, such as {}")
        return before, after, sealed


def _overrides(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The changes that make one state of the other: changed fields, and null for removed ones."""
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    return changed | {name: None for name in before if name not in after}
