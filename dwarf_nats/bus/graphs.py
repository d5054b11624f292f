"""Sources of graphs beside the registry: a directory of files, and services on `graph.<workflow>` (wire: section 3)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import orjson

from dwarf_nats.errors import BadRequest, NotFound, Unavailable
from dwarf_nats.ports import BusAway, Graphs, Refused, SourceAway
from dwarf_nats.wire import headers as h
from dwarf_nats.wire.streams import describe_capture
from dwarf_nats.wire.subjects import Subjects
from dwarf_nats.wire.task_messages import GraphLoadRequest
from dwarf_nats.workflow import documents
from dwarf_nats.workflow.document_lines import line_of
from dwarf_nats.workflow.documents import SUFFIXES
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.state import Raw, check_json

from .calls import Reply
from .connection import Connection
from .inbox import Inbox
from .reconnects import Reconnects

log = logging.getLogger("dwarf_nats.bus")


class ChainGraphs:
    """Several sources in order; the first that has the workflow answers."""

    def __init__(self, *sources: Graphs) -> None:
        self._sources: Sequence[Graphs] = sources

    async def load(self, workflow: str, baggage: Raw) -> Graph | None:
        """The graph of the first source that has one."""
        for source in self._sources:
            graph = await source.load(workflow, baggage)
            if graph is not None:
                return graph
        return None


@dataclass(slots=True)
class _File:
    stamp: tuple[int, int]
    name: str
    graph: Graph | None


_SEE_LOG = "the replica's log says why"


class DirectoryGraphs:
    """Graph files of a directory, `*.json` and `*.yaml`, one graph each, known by the graph's name.

    Each load lists the directory and reads changed files again, in a thread. A bad file is logged with the reason; a load of
    its graph (by the name inside or, if that cannot be read, by the file's) raises `BadRequest`. The caller sees neither the
    path nor the content of the file.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._files: dict[str, _File] = {}
        self._reading = asyncio.Lock()
        if not self._directory.is_dir():
            raise BadRequest(f"the directory of graphs {self._directory} does not exist")

    async def load(self, workflow: str, baggage: Raw) -> Graph | None:  # noqa: ARG002
        """The graph, or `None`. Raises `BadRequest` if its file is bad or two files hold it."""
        async with self._reading:
            changed = self._changed()
            if changed:
                read = await asyncio.to_thread(self._read_all, changed)
                self._files.update(read)
        found = [path for path, file in sorted(self._files.items()) if file.name == workflow]
        if len(found) > 1:
            log.error(
                "graph %s is in several files of %s: %s; keep one", workflow, self._directory, " and ".join(found)
            )
            raise BadRequest(f"graph {workflow}: several graph files hold this workflow; {_SEE_LOG}")
        if not found:
            return None
        graph = self._files[found[0]].graph
        if graph is None:
            raise BadRequest(f"graph {workflow}: the graph file of this workflow is not valid; {_SEE_LOG}")
        return graph

    def _changed(self) -> dict[str, tuple[int, int]]:
        """Files that are new or changed, with their stamps; files that are gone are forgotten."""
        there: dict[str, tuple[int, int]] = {}
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIXES) and not entry.name.startswith("."):
                        there[entry.name] = _stamp(entry)
        except OSError as error:
            log.error("cannot read the directory of graphs %s: %s", self._directory, error.strerror)
            raise Unavailable(f"the directory of graph files cannot be read; {_SEE_LOG}") from None
        for name in set(self._files) - set(there):
            del self._files[name]
        return {name: stamp for name, stamp in there.items() if not self._knows(name, stamp)}

    def _knows(self, name: str, stamp: tuple[int, int]) -> bool:
        known = self._files.get(name)
        return known is not None and known.stamp == stamp

    def _read_all(self, names: dict[str, tuple[int, int]]) -> dict[str, _File]:
        return {name: self._read(name, stamp) for name, stamp in names.items()}

    def _read(self, name: str, stamp: tuple[int, int]) -> _File:
        path = self._directory / name
        workflow, value = path.stem, None
        lines: dict[documents.Keys, int] = {}
        try:
            text, found = documents.to_document(documents.read_file(path), is_yaml=not name.endswith(".json"))
            lines.update(found)
            value = check_json(text, "it")
            if isinstance(value, dict) and isinstance(value.get("name"), str):
                workflow = value["name"]
            graph = Graph.from_json(text)
            graph.validate()
            return _File(stamp, graph.name, graph)
        except (OSError, ValueError, BadRequest) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            line = line_of(reason, value, lines)
            place = str(path) if line is None else f"{path}:{line}"
            log.error("graph file %s is bad: %s", place, " ".join(reason.split())[:1000])
            return _File(stamp, workflow, None)


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Time and size of a file, which change with it; constant if it cannot be read, such as a link to itself."""
    try:
        status = entry.stat()
    except OSError:
        return (0, -1)
    return (status.st_mtime_ns, status.st_size)


KNOWN_SECONDS = 3600.0
"""Time after the last answer of a graph service in which it counts as unavailable, and not as removed."""
MAX_KNOWN_WORKFLOWS = 10_000
"""Workflows for which the last answer is remembered; of more, the oldest are forgotten."""


class NatsGraphs:
    """Graphs from services that answer `graph.<workflow>`.

    If nobody listens there, the workflow does not exist, unless a service has answered with it lately.
    """

    def __init__(
        self, connection: Connection, inbox: Inbox, subjects: Subjects | None = None, *, timeout_seconds: float = 5.0
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._subjects = subjects or Subjects()
        self._timeout = timeout_seconds
        self._known: dict[str, float] = {}
        """The time of the last answer with the graph of each workflow."""
        self._reconnects = Reconnects(connection)

    async def load(self, workflow: str, baggage: Raw) -> Graph | None:
        """The graph; `None` if nobody listens or the service answers 404.

        Raises `Unavailable` for other refusals, silence, a lost connection, and if nobody listens yet on one that has just
        come back; `BadRequest` for an answer that is no graph or one of another name; `NotFound` if permissions do not let us
        ask, `SourceAway` if nobody listens where a service answered within the last hour.
        """
        subject = self._subjects.graph(check_subject_name(workflow, "workflow name"))
        reply = await self._ask(workflow, subject, baggage)
        if reply.nobody:
            self._check_absent(workflow, subject)
            return None
        if reply.refused:
            raise NotFound(
                f"no graph {workflow!r} in the registry or the graph files, and no service can be asked for it:"
                f" NATS permissions do not let {self._connection.who} publish to {subject}"
            )
        refusal = _refusal(reply.block, reply.body)
        if refusal is None:
            graph = _graph(workflow, subject, reply.body)
            self._learn(workflow)
            return graph
        code, text = refusal
        if code != 404:
            raise Refused(f"graph {workflow}: the service on {subject} refused with {code}: {text}")
        self._known.pop(workflow, None)
        return None

    async def _ask(self, workflow: str, subject: str, baggage: Raw) -> Reply:
        """The reply of whichever service answers. Raises `Unavailable` if none does."""
        body = msgspec.json.encode(GraphLoadRequest(workflow=workflow, baggage=baggage))
        if not self._connection.fits(b"", body):
            raise Unavailable(f"graph {workflow}: the baggage is too large for the NATS server's max_payload")
        try:
            reply = await self._inbox.ask(subject, b"", body, self._timeout)
        except BusAway:
            raise Unavailable(f"graph {workflow}: the connection to NATS is down; try again") from None
        if reply is None:
            raise Unavailable(f"graph {workflow}: the service on {subject} did not answer in {self._timeout:g} s")
        if reply.stream:
            why = describe_capture(reply.stream, self._subjects.all_of(subject))
            raise Unavailable(f"graph {workflow}: nobody answered in {self._timeout:g} s; {why}")
        return reply

    def _check_absent(self, workflow: str, subject: str) -> None:
        """Raise `Unavailable` or `SourceAway` if the service that nobody finds may come back."""
        if self._reconnects.just_back:
            raise Unavailable(f"graph {workflow}: nobody answers on {subject} yet, the connection has just come back")
        if self._was_known(workflow):
            raise SourceAway(
                f"no workflow {workflow!r} at present: it is neither in the registry (dwarf.graph.put), nor in the"
                f" directory of graph files (--graphs), and the service that answered on {subject} before is away"
            )

    def _learn(self, workflow: str) -> None:
        self._known.pop(workflow, None)
        self._known[workflow] = asyncio.get_running_loop().time()
        if len(self._known) > MAX_KNOWN_WORKFLOWS:
            del self._known[next(iter(self._known))]

    def _was_known(self, workflow: str) -> bool:
        """True if a service answered with it within `KNOWN_SECONDS`."""
        at = self._known.get(workflow)
        return at is not None and asyncio.get_running_loop().time() - at < KNOWN_SECONDS


def _graph(workflow: str, subject: str, body: bytes) -> Graph:
    """The graph in a reply. Raises `BadRequest` if it is none, or one of another name."""
    try:
        graph = Graph.from_json(body)
    except BadRequest as error:
        raise BadRequest(f"graph {workflow}: the service on {subject} sent a bad graph: {error.message}") from None
    if graph.name != workflow:
        raise BadRequest(f"graph {workflow}: the service on {subject} answered with a graph named {graph.name!r}")
    return graph


def _refusal(block: bytes | None, body: bytes) -> tuple[int, str] | None:
    """Code and text of an error, given in headers or in the body."""
    headers = h.read_headers(block)
    text = h.percent_decode(headers.get("nats-service-error", ""))
    if "nats-service-error-code" in headers or text:
        digits = headers.get("nats-service-error-code", "")
        return (int(digits) if digits.isascii() and digits.isdigit() else 500), text
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        code = error.get("code")
        return (code if type(code) is int else 500), str(error.get("message", ""))
    return (500, error) if isinstance(error, str) else None
