"""`dwarf-nats source …`: messages that start flows or signal events (R1, R2)."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.document_file import read_document
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, day_and_clock, pretty, table
from dwarf_nats.errors import BadRequest
from dwarf_nats.render.terminal import one_line
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import encode
from dwarf_nats.wire.source_messages import source_message, source_record, source_request
from dwarf_nats.workflow.sources import SourceInfo

app = new_app("Sources: messages that start flows or signal events.")

Files = Annotated[
    list[str], typer.Argument(metavar="FILE…", help="JSON or YAML, one source each; - for standard input.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the source.")]


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="source")


@command(app, "put", example="dwarf-nats source put orders.yaml")
async def put(out: Output, bus: Bus, service: Service, sources: Files) -> None:
    """Have messages start flows or signal events, in place of the source of the same name."""
    read = [(path, source_record(read_document(path, m.SourcePutRequest))) for path in sources]
    async with service.client(bus) as client:
        for path, source in read:
            try:
                info = await client.put_source(source)
            except BadRequest as error:
                raise BadRequest(f"{path}: {error.message}") from None
            out.show(source_message(info), _line(info))


@command(app, "get", example="dwarf-nats source get orders")
async def get(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Print a source, and how it stands."""
    async with service.client(bus) as client:
        info = await client.get_source(name)
    out.show(source_message(info), *_details(info))


@command(app, "list", example="dwarf-nats source list")
async def list_(out: Output, bus: Bus, service: Service) -> None:
    """List the sources, and how they stand."""
    async with service.client(bus) as client:
        sources = await client.list_sources()
    rows = [
        (
            one.source.name,
            one.source.subject,
            one.source.stream or "-",
            one.state.state,
            _number(one.state.pending),
            str(one.rejected),
            one.state.reason or one.last_error or "",
        )
        for one in sources
    ]
    reply = m.SourceListReply(sources=[source_message(one) for one in sources])
    out.show(reply, table(("name", "subject", "stream", "state", "pending", "rejected", "why"), rows))


@command(app, "pause", example="dwarf-nats source pause orders")
async def pause(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Leave the messages of a source in their stream until it is resumed."""
    async with service.client(bus) as client:
        info = await client.pause_source(name)
    out.show(source_message(info), _line(info))


@command(app, "resume", example="dwarf-nats source resume orders")
async def resume(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Go on with the messages of a source that was paused."""
    async with service.client(bus) as client:
        info = await client.resume_source(name)
    out.show(source_message(info), _line(info))


@command(app, "delete", example="dwarf-nats source delete orders")
async def delete(out: Output, bus: Bus, service: Service, name: Name) -> None:
    """Forget a source and remove its consumer from the stream; flows go on."""
    async with service.client(bus) as client:
        await client.delete_source(name)
    out.show(m.Empty(), "deleted")


def _line(info: SourceInfo) -> Text:
    why = f": {one_line(info.state.reason)}" if info.state.reason else ""
    return Text(f"{info.source.name}  {info.state.state}{why}")


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _details(info: SourceInfo) -> list[RenderableType]:
    shown: list[RenderableType] = [_line(info)]
    if info.state.pending is not None:
        shown.append(f"pending: {_number(info.state.pending)}, in hand: {_number(info.state.in_hand)}")
    shown.append(f"rejected: {info.rejected:,}")
    if info.last_error is not None and info.last_error_at is not None:
        shown.append(Text(f"last error, {day_and_clock(info.last_error_at)}: {one_line(info.last_error)}", style="red"))
    shown.append(pretty(encode(source_request(info.source))))
    return shown
