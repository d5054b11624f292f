"""`dwarf-nats health`: whether replicas live and are ready, for people and for a container's HEALTHCHECK."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer

from dwarf_nats import probes
from dwarf_nats.cli.command import command
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, table
from dwarf_nats.errors import Unavailable
from dwarf_nats.redact import redacted_url, scrubbed
from dwarf_nats.wire import messages as m


def register(app: typer.Typer) -> None:
    command(
        app,
        "health",
        example="dwarf-nats health\ndwarf-nats health --port 8080 --live",
    )(health)


async def health(
    out: Output,
    bus: Bus,
    service: Service,
    url: Annotated[str, typer.Option(envvar="DWARF_HEALTH_URL", help="Ask this URL instead of NATS.")] = "",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, envvar="DWARF_HEALTH_PORT", help="Ask the replica with this --health-port."),
    ] = None,
    live: Annotated[bool, typer.Option("--live/--ready", help="Whether it lives, or may be counted on.")] = False,
    timeout_ms: Annotated[int, typer.Option(min=1, help="How long to wait for an answer.")] = 2_000,
) -> None:
    """Ask all replicas over NATS, or one over HTTP. Exit code 0 if there is one and all are well, else 1."""
    if url or port is not None:
        found = [await _over_http(url or f"http://127.0.0.1:{port}{probes.LIVE if live else probes.READY}", timeout_ms)]
    else:
        async with service.client(bus) as client:
            found = await client.health(wait=timeout_ms / 1000)
    rows = [(one.replica, one.version, _state(one), one.reason or "") for one in found]
    out.show(m.HealthListReply(replicas=found), table(("replica", "version", "state", "reason"), rows))
    if not all(one.live if live else one.ready for one in found):
        raise typer.Exit(1)


def _state(one: m.HealthReply) -> str:
    return "ready" if one.ready else "not ready" if one.live else "dead"


async def _over_http(url: str, timeout_ms: int) -> m.HealthReply:
    if "://" not in url:
        url = f"http://{url}"
    try:
        _, body = await asyncio.to_thread(probes.ask, url, timeout_ms / 1000)
        return msgspec.json.decode(body, type=m.HealthReply)
    except OSError as error:
        reason: Any = getattr(error, "reason", error)
        raise Unavailable(f"no answer from {redacted_url(url)}: {scrubbed(str(reason), url)}") from None
    except msgspec.MsgspecError:
        raise Unavailable(f"{redacted_url(url)} does not answer as a replica does") from None
