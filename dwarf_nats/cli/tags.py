"""`dwarf-nats flow find` and `flow tag`: flows by their tags (Q1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from dwarf_nats.cli.arguments import Cursor, FlowKey
from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.flow_list import show_flows
from dwarf_nats.cli.options import Bus, Filters, FlowService
from dwarf_nats.cli.output import Output
from dwarf_nats.cli.tag_args import read_changes, read_tags, tags_line
from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Query
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.tag_messages import tags_json
from dwarf_nats.workflow.keys import parse_public_id, without_tokens

app = new_app("")
TERMS = "NAME=VALUE for a tag; status, workflow, task, thread or search=VALUE; else a text to search for."
"""The help of terms."""
_SETTERS: dict[str, Callable[[Query, str], Query]] = {
    "status": lambda query, value: replace(query, status=value),
    "workflow": lambda query, value: replace(query, workflow=value),
    "task": lambda query, value: replace(query, task=value),
    "thread": lambda query, value: replace(query, thread=value),
    "search": lambda query, value: replace(query, search=value),
    "flow_id": lambda query, value: replace(query, flow_id=value),
}
"""Filters that a term may set; a tag of such a name is given with --tag."""


def register(family: typer.Typer) -> None:
    family.add_typer(app)


@command(
    app,
    "find",
    short="Flows by tags, filters or a text.",
    example="dwarf-nats flow find customer=4711\ndwarf-nats flow find customer=4711 status=failed\n"
    "dwarf-nats flow find 1-42",
)
async def find(
    out: Output,
    bus: Bus,
    service: FlowService,
    filters: Filters,
    terms: Annotated[
        list[str],
        typer.Argument(
            metavar="TERM...",
            help=TERMS,
        ),
    ],
    cursor: Cursor = "",
) -> None:
    """List the flows that match all terms, newest first.

    The id or key of a flow finds that flow. Any other text is searched for as by `flow list --search`.
    """
    query = with_terms(filters.query(), terms)
    async with service.client(bus) as client:
        flows, following = await client.list(query, cursor)
    show_flows(out, flows, following, query)


def with_terms(query: Query, terms: Sequence[str]) -> Query:
    """The query with what the terms ask for, too. Raises `typer.BadParameter` for two values of one filter."""
    tags = []
    for term in terms:
        name, equals, value = term.partition("=")
        if not equals:
            name, value = _id_or_text(term)
        if name not in _SETTERS:
            tags.append(term)
        elif getattr(query, name) is not None:
            raise typer.BadParameter(f"{name} is given twice: leave {term!r} out", param_hint="TERM")
        else:
            query = _SETTERS[name](query, value)
    found = read_tags(tags, "TERM")
    return query if found is None else replace(query, tags={**(query.tags or {}), **found})


def _id_or_text(term: str) -> tuple[str, str]:
    """The filter for a term without a name: the id or key of a flow is looked up, anything else searched for."""
    flow_id = without_tokens(term)
    try:
        parse_public_id(flow_id)
    except BadRequest:
        return "search", term
    return "flow_id", flow_id


@command(
    app,
    "tag",
    short="Set or remove tags of a flow.",
    example="dwarf-nats flow tag 1-42-a1B2c3D4e5F6g7H8 customer=4711 urgent=true\n"
    "dwarf-nats flow tag 1-42-a1B2c3D4e5F6g7H8 urgent-",
)
async def tag(
    out: Output,
    bus: Bus,
    service: FlowService,
    flow: FlowKey,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="TAG...", help="NAME=VALUE sets a tag, NAME- removes it.")
    ] = None,
) -> None:
    """Set or remove tags of a flow, and print all it has then. Without any, only print them."""
    async with service.client(bus) as client:
        tags = await client.tag(flow, read_changes(changes or []))
    out.show(m.FlowTagReply(tags=tags_json(tags)), tags_line(tags) or "no tags")


__all__ = ["app"]
