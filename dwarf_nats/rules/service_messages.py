"""Requests and messages of a graph made from their templates (N3, N4). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.nodes import PublishMessage, SendRequest
from dwarf_nats.workflow.services import header_problem
from dwarf_nats.workflow.state import Raw, State, json_type
from dwarf_nats.workflow.templates import render, render_text

_decode = msgspec.json.Decoder().decode


class ServiceMessage(NamedTuple):
    """A request or message, ready to be sent."""

    subject: str
    payload: bytes
    headers: list[tuple[str, str]]


def service_message(
    action: SendRequest | PublishMessage, state: State, *, where: str, extra: Mapping[str, Raw]
) -> ServiceMessage:
    """Evaluate the templates of an action on a state. `where` names the action, `extra` is known to the templates beside it.

    Raises `BadRequest` that names the template which cannot be evaluated.
    """
    payload = b""
    if action.payload is not msgspec.UNSET:
        payload = _payload(bytes(render(action.payload, state, where=f"{where}.payload", extra=extra)))
    headers: list[tuple[str, str]] = []
    for name, template in action.headers.items():
        place = f"{where}.headers.{name}"
        value = _header(bytes(render(template, state, where=place, extra=extra)), place)
        if problem := header_problem(name):
            raise BadRequest(f"{place}: no header can have this name: {problem}")
        if value is not None:
            headers.append((name, value))
    subject = render_text(action.subject, state, where=f"{where}.subject", extra=extra)
    return ServiceMessage(subject, payload, headers)


def _payload(text: bytes) -> bytes:
    """A text as it is, anything else as JSON."""
    if text.startswith(b'"'):
        decoded: str = _decode(text)
        return decoded.encode()
    return text


def _header(text: bytes, place: str) -> str | None:
    """A text, number or boolean as a header has it; `None` for null, which leaves the header out."""
    if text.startswith(b'"'):
        decoded: str = _decode(text)
        return decoded
    if text[:1] in b"{[":
        raise BadRequest(f"{place} is an {json_type(_decode(text))}: a header is a text, a number or a boolean")
    return None if text == b"null" else text.decode()
