"""Write the JSON Schemas, the examples, the AsyncAPI 3 and the OpenAPI document from the message types.

Descriptions are the docstrings, without the rules they cite.

`python -m dwarf_nats.wire.schema [--check] [DIR]` writes into `schemas/` (or DIR); with `--check` it
writes nothing, and the exit code is 1 if anything there differs.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from dwarf_nats.version import __version__

from . import messages as m
from . import peer_messages as p
from . import task_messages as t
from .examples import EXAMPLES
from .openapi import openapi
from .operations import OPERATIONS, SIGNAL
from .subjects import Subjects

BASE = "urn:dwarf-nats:schema:"
DIRECTORY = Path(__file__).resolve().parents[2] / "schemas"
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_RULES = re.compile(r" \([A-Z]\d+(?:[,-] ?[A-Z]\d+)*\)")


def schema_name(kind: type[msgspec.Struct]) -> str:
    """The file name of a type without its ending: `FlowCreateRequest` → `flow_create_request`."""
    return _WORD.sub("_", kind.__name__).lower()


def without_rules(schema: Any) -> Any:
    """A copy of a schema with plain descriptions: no indentation of the source, no rules such as `(O13, O14)`."""
    if isinstance(schema, dict):
        return {
            name: _RULES.sub("", cleandoc(value))
            if name == "description" and isinstance(value, str)
            else without_rules(value)
            for name, value in schema.items()
        }
    return [without_rules(one) for one in schema] if isinstance(schema, list) else schema


def json_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of one message, with its example."""
    schema = without_rules(msgspec.json.schema(kind))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{BASE}{schema_name(kind)}",
        "title": kind.__name__,
        "examples": [EXAMPLES[kind]],
        **schema,
    }


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        "title": _RULES.sub("", (kind.__doc__ or kind.__name__).strip().splitlines()[0]),
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "examples": [{"name": schema_name(kind), "payload": EXAMPLES[kind]}],
    }


@dataclass(frozen=True, slots=True)
class _Channel:
    """A subject of the service: what is received or sent there, and the replies to it, if there are any."""

    name: str
    action: str
    address: str
    message: type[msgspec.Struct]
    replies: tuple[type[msgspec.Struct], ...] = ()

    def channel(self) -> dict[str, Any]:
        """The channel as the document has it; parts of the address in braces are parameters."""
        found: dict[str, Any] = {
            "address": self.address,
            "messages": {self.message.__name__: _ref("components/messages", self.message.__name__)},
        }
        parameters: dict[str, Any] = {one: {} for one in re.findall(r"\{(\w+)\}", self.address)}
        return {**found, "parameters": parameters} if parameters else found

    def operation(self) -> dict[str, Any]:
        """The operation on the channel as the document has it."""
        found: dict[str, Any] = {
            "action": self.action,
            "channel": _ref("channels", self.name),
            "messages": [_ref(f"channels/{self.name}/messages", self.message.__name__)],
        }
        if self.replies:
            found["reply"] = {
                "address": {"location": "$message.header#/reply"},
                "channel": _ref("channels", "reply"),
                "messages": [_ref("channels/reply/messages", one.__name__) for one in self.replies],
            }
        return found


def _channels() -> list[_Channel]:
    """Every subject on which the service receives or sends."""
    subjects = Subjects()
    operations = [
        _Channel(one.endpoint, "receive", subjects.operation(one.name), one.request, replies=(one.reply, m.ErrorReply))
        for one in OPERATIONS
    ]
    health = (m.HealthReply, m.ErrorReply)
    return [
        *operations,
        _Channel(
            SIGNAL.endpoint, "receive", subjects.signal("{event}"), SIGNAL.request, replies=(SIGNAL.reply, m.ErrorReply)
        ),
        _Channel("health", "receive", subjects.health(), m.EmptyRequest, replies=health),
        _Channel("health-one", "receive", subjects.health("{replica}"), m.EmptyRequest, replies=health),
        _Channel("task", "send", "task.{url}", t.TaskRequest, replies=(t.TaskReply,)),
        _Channel("progress", "receive", "{reply}", t.TaskProgress),
        _Channel("worker", "send", "{worker}", t.WorkerCall, replies=(t.WorkerReply,)),
        _Channel("batch", "send", "{worker}", t.BatchedRequest, replies=(t.BatchedReply,)),
        _Channel("graph", "send", "graph.{workflow}", t.GraphLoadRequest, replies=(m.GraphDocument,)),
        _Channel("peer-enqueue", "send", subjects.peer("enqueue"), p.PeerEnqueue),
        _Channel("peer-sync_valve", "send", subjects.peer("sync_valve"), p.PeerSyncValve),
        _Channel("peer-trip_breaker", "send", subjects.peer("trip_breaker"), p.PeerTripBreaker),
        _Channel("peer-change_definitions", "send", subjects.peer("change_definitions"), p.PeerChangeDefinitions),
        _Channel("peer-notify_status_change", "send", subjects.peer("notify_status_change"), p.PeerNotifyStatusChange),
        _Channel("peer-explain", "send", subjects.peer("explain"), p.PeerExplain),
        _Channel("peer-explained", "send", subjects.peer("explained"), p.PeerExplained),
        _Channel("rejected", "send", subjects.rejected("{source}"), m.Rejected),
        _Channel("stopped", "send", "dwarf.stopped.{notify}", m.Outcome),
        _Channel("event", "send", "dwarf.event.{status}.{workflow}", p.Event),
    ]


def _components() -> dict[str, Any]:
    """The schemas of all messages by name, which refer to each other as components of a document."""
    _, schemas = msgspec.json.schema_components(list(EXAMPLES), ref_template="#/components/schemas/{name}")
    found: dict[str, Any] = without_rules(schemas)
    return found


def openapi_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the operations over HTTP, with the schemas of their messages."""
    return openapi(_components())


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document: the messages that the service receives and sends, and their subjects."""
    replies = {
        "address": None,
        "description": "The reply subject of the request.",
        "messages": {kind.__name__: _ref("components/messages", kind.__name__) for kind in EXAMPLES},
    }
    channels = _channels()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "dwarf-nats",
            "version": __version__,
            "description": "Durable workflow orchestration as a service on NATS. The prefixes are configurable.",
        },
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": "localhost:4222", "protocol": "nats"}},
        "channels": {"reply": replies} | {one.name: one.channel() for one in channels},
        "operations": {one.name: one.operation() for one in channels},
        "components": {
            "messages": {kind.__name__: _message(kind) for kind in EXAMPLES},
            "schemas": _components(),
        },
    }


def _ref(place: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/{place}/{name}"}


def render() -> dict[str, bytes]:
    """Every generated file by its path under the directory of schemas."""
    files: dict[str, Any] = {"asyncapi.json": asyncapi(), "openapi.json": openapi_document()}
    for kind, example in EXAMPLES.items():
        files[f"{schema_name(kind)}.json"] = json_schema(kind)
        files[f"examples/{schema_name(kind)}.json"] = example
    return {path: msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n" for path, value in files.items()}


def drift(directory: Path = DIRECTORY) -> list[str]:
    """Paths that are missing, differ or should not be there."""
    wanted = render()
    there = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*.json")}
    wrong = {name for name, text in wanted.items() if name not in there or there[name].read_bytes() != text}
    return sorted(wrong | (set(there) - set(wanted)))


def main(arguments: list[str]) -> int:
    """Write the files, or check them; the exit code tells."""
    check = "--check" in arguments
    places = [one for one in arguments if one != "--check"]
    unknown = [one for one in places if one.startswith("-") and one not in ("-h", "--help")]
    if unknown or len(places) > 1 or "-h" in places or "--help" in places:
        output, code = (sys.stderr, 2) if unknown or len(places) > 1 else (sys.stdout, 0)
        output.write(f"unknown option {unknown[0]}\n\n" if unknown else "")
        output.write(__doc__ or "")
        return code
    directory = Path(places[0]) if places else DIRECTORY
    if check:
        wrong = drift(directory)
        for name in wrong:
            sys.stderr.write(f"{directory / name} differs from the message types\n")
        if wrong:
            sys.stderr.write("run: python -m dwarf_nats.wire.schema\n")
        return 1 if wrong else 0
    for name, text in render().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
