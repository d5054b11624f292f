"""The messages of the operations on graphs, as types (wire section 1)."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta

from .message_fields import Maybe, Message, Request, Subject, Time, Truncated


class GraphRequest(Request):
    """Names a graph."""

    name: Subject


class GraphTask(Request):
    """A node of a graph (G1)."""

    name: str
    url: Maybe[Subject] = UNSET
    fan_in: Maybe[bool] = UNSET


class GraphTransition(
    Request,
    rename={
        "source": "from",
        "target": "to",
        "as_": "as",
        "with_goto": "withGoto",
        "for_each": "forEach",
        "on_error": "onError",
    },
):
    """An edge of a graph (G2)."""

    source: str
    target: str
    when: Maybe[str] = UNSET
    switch: Maybe[bool] = UNSET
    with_goto: Maybe[bool] = UNSET
    for_each: Maybe[str] = UNSET
    as_: Maybe[str] = UNSET
    on_error: Maybe[bool] = UNSET


class GraphDocument(Request):
    """A graph (G8)."""

    name: Subject
    tasks: list[GraphTask]
    entry_point: Maybe[str] = UNSET
    transitions: Maybe[list[GraphTransition]] = UNSET
    reducers: Maybe[dict[str, str]] = UNSET
    annotations: Maybe[dict[str, str]] = UNSET
    fan_out_to_fan_in: Maybe[dict[str, str]] = UNSET


Warnings = Annotated[list[str], Meta(description="What looks like a mistake in the graph.")]


class GraphPutReply(Message):
    """The graph as registered; the digest is the SHA-256 of its canonical JSON."""

    name: str
    digest: str
    warnings: Maybe[Warnings] = UNSET


class GraphValidateReply(Message):
    """The graph is sound."""

    warnings: Maybe[Warnings] = UNSET


class GraphEntry(Message):
    """One registered graph."""

    name: str
    digest: str
    updated_at: Time


class GraphListReply(Message):
    """All registered graphs, by name; `truncated` if not all of them fit."""

    graphs: list[GraphEntry]
    truncated: Maybe[Truncated] = UNSET
