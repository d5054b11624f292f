"""The replicas and the shards of the deployment."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dwarf_nats.console.console import Console
from dwarf_nats.console.live import PolledView, Update
from dwarf_nats.console.source import Source
from dwarf_nats.errors import Forbidden, Unavailable
from dwarf_nats.redact import redacted_url


def routes(console: Console) -> list[Route]:
    """The route of the page."""

    async def show(request: Request) -> Response:
        source = await console.source_of(request)
        values = await replica_values(source)
        return await console.page(request, "replicas.html", section="replicas", title="Replicas", **values)

    console.views["replicas"] = lambda _request, source: ReplicaList(console, source)
    return [Route("/replicas", show)]


async def replica_values(source: Source) -> dict[str, Any]:
    """The values of the template."""
    replicas, shards = await asyncio.gather(_or_none(source.health()), _or_none(source.shards()))
    numbers = [one["shard"] for one in shards or ()]
    return {
        "replicas": sorted(replicas or (), key=lambda one: str(one["replica"])),
        "hidden": [what for what, found in (("replicas", replicas), ("shards", shards)) if found is None],
        "shards": shards or (),
        "numbers": numbers,
        "nats": _nats(source),
    }


async def _or_none(asked: Any) -> list[dict[str, Any]] | None:
    """The result; none if nobody answers, `None` if NATS does not let this user ask."""
    try:
        found: list[dict[str, Any]] = await asked
    except Forbidden:
        return None
    except Unavailable:
        return []
    return found


def _nats(source: Source) -> dict[str, Any]:
    """The connection of the console."""
    nc = source.client.nc
    url = nc.connected_url
    return {
        "url": redacted_url(url.geturl()) if url is not None else "",
        "version": str(nc.connected_server_version).strip("<>").rpartition(" ")[2] if nc.is_connected else "",
        "max_payload": nc.max_payload,
    }


class ReplicaList(PolledView):
    """Replicas and shards."""

    key = "replicas"

    def __init__(self, console: Console, source: Source) -> None:
        super().__init__(source)
        self._console = console

    async def render(self) -> Update:
        return Update(html={"rows": self._console.html("replicas_rows.html", **await replica_values(self.source))})
