"""The OpenAPI 3.1 document of the HTTP way in: the operations of the table, with the JSON of the wire."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from dwarf_nats.errors import DwarfError
from dwarf_nats.version import __version__

from .examples import EXAMPLES
from .messages import ErrorReply
from .operations import OPERATIONS, Operation

IDEMPOTENCY_KEY = "Idempotency-Key"
"""Header of a request that may be sent again: `Nats-Msg-Id` of the wire."""
HOOKS = "/hooks/{source}"
"""Where the body of a request becomes a message of a source."""
CODES = tuple(sorted(leaf.code for leaf in DwarfError.__subclasses__()))
"""The codes of refusals, which are HTTP statuses."""
_RULES = re.compile(r" \([A-Z]\d+(?:[,-] ?[A-Z]\d+)*\)")


def openapi(schemas: dict[str, Any]) -> dict[str, Any]:
    """The document. `schemas`: those of all messages, by name, with references to `#/components/schemas`."""
    refusal = {
        "description": "Refused; the status is the code of the error.",
        "content": _content(ErrorReply),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dwarf-nats",
            "version": __version__,
            "description": "The operations over HTTP, as `dwarf-nats console --api` answers them.",
        },
        "paths": {f"/api/{one.name}": {"post": _operation(one)} for one in OPERATIONS} | {HOOKS: {"post": _hook()}},
        "components": {
            "schemas": schemas,
            "responses": {"Refused": refusal},
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
        "security": [{}, {"basic": []}],
    }


def _hook() -> dict[str, Any]:
    """The request that becomes a message of a source."""
    text = {"schema": {"type": "string"}}
    stored = {
        "type": "object",
        "properties": {
            "stream": {"type": "string"},
            "sequence": {"type": "integer"},
            "duplicate": {"type": "boolean"},
        },
    }
    return {
        "operationId": "hook",
        "summary": "Send a message to a source.",
        "tags": ["source"],
        "parameters": [
            {"name": "source", "in": "path", "required": True, **text},
            {"name": "subject", "in": "query", "description": "Needed if that of the source has wildcards.", **text},
            {"name": IDEMPOTENCY_KEY, "in": "header", "description": "The same key is one message.", **text},
        ],
        "requestBody": {"content": {"*/*": {}}},
        "responses": {
            "202": {
                "description": "Stored; without a stream, published.",
                "content": {"application/json": {"schema": stored}},
            },
            **{str(code): {"$ref": "#/components/responses/Refused"} for code in CODES},
        },
    }


def _operation(one: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": one.endpoint,
        "summary": _RULES.sub("", (one.request.__doc__ or one.name).strip().splitlines()[0]),
        "tags": [one.name.partition(".")[0]],
        "requestBody": {"content": _content(one.request)},
        "responses": {
            "200": {"description": "Done.", "content": _content(one.reply)},
            **{str(code): {"$ref": "#/components/responses/Refused"} for code in CODES},
        },
    }
    if one.keyed:
        found["parameters"] = [
            {
                "name": IDEMPOTENCY_KEY,
                "in": "header",
                "schema": {"type": "string", "maxLength": 256},
                "description": "The same key makes the same flow or event, never a second.",
            }
        ]
    return found


def _content(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "application/json": {
            "schema": {"$ref": f"#/components/schemas/{kind.__name__}"},
            "example": EXAMPLES[kind],
        }
    }
