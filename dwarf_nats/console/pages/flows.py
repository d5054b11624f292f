"""The list of flows: filters in the address, live, paged, with a selection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dwarf_nats.console.console import Console
from dwarf_nats.console.live import Change, Update, View
from dwarf_nats.console.source import Source
from dwarf_nats.console.tags import tag_value
from dwarf_nats.errors import BadRequest, Forbidden, NotFound, TimedOut, Unavailable
from dwarf_nats.workflow.keys import parse_public_id

PAGE_FLOWS = 50
STATUSES = ("running", "interrupted", "failed", "completed", "cancelled", "created")
PERIODS = {"1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000, "30d": 2_592_000_000}
"""Choices of the filter by time → milliseconds since the last change of the status."""
WAITS = ("interrupt", "breakpoint", "event", "retry", "scheduled", "queued", "no_responders", "unavailable", "running")
"""Reasons of waits that can be filtered by."""
LOOKED_PAGES = 5
"""Pages of 200 flows that are looked through for flows that wait for something: the service has no filter for it."""
TAG = "tag."
"""Beginning of a parameter that filters by a tag: `tag.customer=4711`."""


def routes(console: Console) -> list[Route]:
    """The route of the list and of the search field."""

    async def show(request: Request) -> Response:
        filters = Filters(request.query_params)
        source = await console.source_of(request)
        values = await list_values(source, filters)
        return await console.page(request, "flows.html", section="flows", title="Flows", **values)

    async def search(request: Request) -> Response:
        form = await console.form(request)  # no address: somebody may paste a key
        text = str(form.get("q", "")).strip()
        source = await console.source_of(request)
        source.learn_flow(text)
        return RedirectResponse(address_of_search(text), status_code=303)

    console.views["flows"] = lambda request, source: FlowList(console, source, Filters(request.query_params))
    return [Route("/flows", show), Route("/search", search, methods=["POST"])]


class Filters:
    """The filters in an address, which are those of `flow.list`."""

    def __init__(self, params: Mapping[str, str]) -> None:
        self._params = {name: value.strip() for name, value in params.items() if value.strip()}
        self.cursor = self._params.pop("cursor", "")

    def __getitem__(self, name: str) -> str:
        return self._params.get(name, "")

    @property
    def tags(self) -> dict[str, str]:
        """The tags that are asked for."""
        return {name.removeprefix(TAG): value for name, value in self._params.items() if name.startswith(TAG)}

    @property
    def any(self) -> bool:
        """True if something is filtered."""
        return bool(self._params)

    def query(self) -> dict[str, Any]:
        """The fields of the request. Raises `BadRequest` for values that no filter has."""
        found: dict[str, Any] = {"limit": PAGE_FLOWS}
        for name in ("status", "workflow", "task", "search", "fairnessKey"):
            if self[name]:
                found[name] = self[name]
        if self["period"]:
            if self["period"] not in PERIODS:
                raise BadRequest(f"there is no period {self['period'][:20]}: use one of {', '.join(PERIODS)}")
            found["newerThanMs"] = PERIODS[self["period"]]
        if self.tags:
            found["tags"] = {name: tag_value(value) for name, value in self.tags.items()}
        return found

    def address(self, **changes: str) -> str:
        """The address of the list with other filters; an empty value removes one."""
        params = {name: value for name, value in {**self._params, **changes}.items() if value}
        return "/flows" + (f"?{urlencode(params)}" if params else "")

    @property
    def parameters(self) -> str:
        """The filters and the place, as in the address."""
        return urlencode({**self._params, **({"cursor": self.cursor} if self.cursor else {})})


def address_of_search(text: str) -> str:
    """Where the search field leads: an id or a key to its flow, `name=value` to a tag, a status or workflow, else to text."""
    text = text.strip()
    if not text:
        return "/flows"
    try:
        parse_public_id("-".join(text.split("-")[:2]))
    except BadRequest:
        pass
    else:
        if text.count("-") in (1, 2) and " " not in text:
            return "/flow/" + "-".join(text.split("-")[:2])
    name, equals, value = text.partition("=")
    if equals and name.strip() and value.strip():
        name = name.strip()
        return f"/flows?{urlencode({name if name in ('status', 'workflow', 'task') else TAG + name: value.strip()})}"
    return f"/flows?{urlencode({'search': text})}"


async def list_values(source: Source, filters: Filters) -> dict[str, Any]:
    """The values of the template."""
    (flows, cursor, looked, searched_to), counts = await asyncio.gather(
        _read(source, filters), _counts(source, filters)
    )
    return {
        "filters": filters,
        "flows": flows,
        "counts": counts,
        "statuses": STATUSES,
        "periods": PERIODS,
        "waits": WAITS,
        "picks": source.may("flow.cancel") or source.may("flow.delete"),
        "matching": _matching(source, filters),
        "looked": looked,
        "searched_to": searched_to,
        "more": filters.address(cursor=cursor) if cursor else "",
    }


def _matching(source: Source, filters: Filters) -> dict[str, Any]:
    """The query of a bulk operation for all flows that the filters find; empty if there can be none."""
    query = filters.query()
    query.pop("limit")
    return query if source.may("flow.bulk") and not filters["waits"] else {}


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of flows of each status. `more`: statuses with more than that; `since`: of flows created since then."""

    of: Mapping[str, int] = field(default_factory=dict)
    more: frozenset[str] = frozenset()
    since: str = ""


async def _counts(source: Source, filters: Filters) -> Counts:
    """The counts for all filters but the status; none for a user who may not ask, or of a service that cannot count."""
    query = {name: value for name, value in filters.query().items() if name not in ("status", "limit")}
    try:
        found = await source.counts(query)
    except (Forbidden, Unavailable, NotFound, TimedOut):
        return Counts()
    return Counts(found["counts"], frozenset(found.get("more", ())), found.get("searchedTo", ""))


class _Page(NamedTuple):
    """Flows and the cursor behind them.

    `looked`: the number that was looked through if the service could not filter them. `searched_to`: so far back the service
    looked if the page ended early.
    """

    flows: Sequence[dict[str, Any]]
    cursor: str
    looked: int = 0
    searched_to: str = ""


async def _read(source: Source, filters: Filters) -> _Page:
    reason = filters["waits"]
    if not reason:
        page = await source.flows(filters.query(), filters.cursor)
        return _Page(page["flows"], page.get("cursor", ""), searched_to=page.get("searchedTo", ""))
    if reason not in WAITS:
        raise BadRequest(f"there is no reason {reason[:20]}: use one of {', '.join(WAITS)}")
    status = "interrupted" if reason in ("interrupt", "breakpoint") else "running"
    query = {**filters.query(), "status": status, "limit": 200}
    found: list[dict[str, Any]] = []
    cursor, looked = filters.cursor, 0
    for _ in range(LOOKED_PAGES):
        page = await source.flows(query, cursor)
        cursor = page.get("cursor", "")
        looked += len(page["flows"])
        found += [one for one in page["flows"] if (one.get("waitsFor") or {}).get("reason") == reason]
        if not cursor or len(found) >= PAGE_FLOWS:
            break
    return _Page(found, cursor, looked)


class FlowList(View):
    """The rows of the list, for tabs with the same filters."""

    beat_seconds = 5.0

    def __init__(self, console: Console, source: Source, filters: Filters) -> None:
        self.source = source
        self.key = ("flows", filters.parameters)
        self._console = console
        self._filters = filters
        self._beats = 0

    def concerns(self, change: Change) -> bool:
        return self._filters["workflow"] in ("", change.workflow) or not change.workflow

    async def stamp(self) -> str | None:
        """Another one each time: steps go on without an event, and the list says what flows wait for."""
        self._beats += 1
        return str(self._beats)

    async def render(self) -> Update:
        values = await list_values(self.source, self._filters)
        html = self._console.html("flows_rows.html", may=self.source.may, **values)
        return Update(html={"rows": html, "counts": self._console.html("flows_counts.html", **values)})
