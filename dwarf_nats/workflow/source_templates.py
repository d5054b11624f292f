"""The templates of sources: checked when a source is put, and rendered for each message (R1).

They know `data` (the parsed body), `text` (the body as text), `subject`, `headers` (names in lower case), `sequence` (in the
stream) and `time` (when the stream received the message, else when the replica did).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import templates
from dwarf_nats.workflow.conditions import compiled, fields_of
from dwarf_nats.workflow.names import MAX_SUBJECT, check_event_key, check_subject_name, closest
from dwarf_nats.workflow.sources import Source, SourceSignal, SourceStart, check_source_name
from dwarf_nats.workflow.state import MAX_DEPTH, NULL, Raw, State, check_json, encode_value, json_type

VARIABLES = ("data", "text", "subject", "headers", "sequence", "time")
"""The variables that the templates of a source may read."""
NOT_ACCEPTED = frozenset({"idempotencyKey"})
"""Options that a source cannot have: the place of a message in its stream is its idempotency key."""
_STREAM = re.compile(r"[^\s.*>/\\]+")
_MAX_STREAM = 255


def check_source(source: Source) -> None:
    """Check all but what depends on the deployment. Raises `BadRequest` with the place and a remedy."""
    check_source_name(source.name)
    _check_subject(source.subject, bool(source.stream))
    if source.stream and (_STREAM.fullmatch(source.stream) is None or len(source.stream) > _MAX_STREAM):
        raise BadRequest(
            f"stream: {source.stream[:80]!r} is no name of a JetStream stream: leave out blanks, dots, wildcards and slashes"
        )
    if (source.start is None) == (source.signal is None):
        raise BadRequest(
            "a source has either `start` (a flow for each message) or `signal` (an event): give one of them"
        )
    for problem in _problems(source):
        raise BadRequest(problem)
    if source.start is not None:
        _check_start(source.start)
    elif source.signal is not None:
        _check_signal(source.signal)


def _templates(source: Source) -> Iterator[tuple[str, Any]]:
    if source.start is not None:
        yield "start.workflow", source.start.workflow
        yield "start.state", source.start.state
        yield "start.options", source.start.options
    if source.signal is not None:
        yield "signal.event", source.signal.event
        yield "signal.key", source.signal.key
        yield "signal.data", source.signal.data


def source_expressions(source: Source) -> Iterator[tuple[str, str]]:
    """Return all expressions of its templates, each with its place."""
    for where, template in _templates(source):
        yield from templates.expressions(template, where)


def _problems(source: Source) -> Iterator[str]:
    for where, template in _templates(source):
        yield from templates.problems(template, where)
    for where, expression in source_expressions(source):
        for name in fields_of(expression):
            if name not in VARIABLES:
                yield (
                    f"{where}: the expression {expression[:200]!r} reads {name[:80]!r}, which no message has;"
                    f" {closest(name, VARIABLES)} A field of the body is `data.{name[:80]}`"
                )


def _check_start(start: SourceStart) -> None:
    if templates.expression_of(start.workflow) is None:
        check_subject_name(templates.literal(start.workflow), "start.workflow")
    if not isinstance(start.state, str | dict) or (
        isinstance(start.state, str) and templates.expression_of(start.state) is None
    ):
        raise BadRequest(
            f"start.state must be an object or an expression such as '=data', got {json_type(start.state)}"
        )
    if start.options is not None and not isinstance(start.options, dict):
        raise BadRequest(f"start.options must be an object, got {json_type(start.options)}")
    for name in start.options or ():
        if name in NOT_ACCEPTED:
            raise BadRequest(
                f"start.options.{name} has no place in a source: source, stream and sequence of a message are its"
                " idempotency key; leave it out"
            )


def _check_signal(signal: SourceSignal) -> None:
    if templates.expression_of(signal.event) is None:
        check_subject_name(templates.literal(signal.event), "signal.event")
    if templates.expression_of(signal.key) is None:
        check_event_key(templates.literal(signal.key), "signal.key")


def _check_subject(subject: str, of_stream: bool) -> None:
    tokens = subject.split(".")
    problem = ""
    if not subject:
        problem = "it is empty"
    elif len(subject.encode("utf-8", "surrogatepass")) > MAX_SUBJECT:
        problem = f"it is longer than {MAX_SUBJECT} bytes"
    elif not subject.isprintable() or " " in subject:
        problem = "it has a space or a control character"
    elif "" in tokens:
        problem = "it has an empty token: two dots side by side, or a dot at an end"
    elif ">" in tokens[:-1] or any(len(one) > 1 and ("*" in one or ">" in one) for one in tokens):
        problem = "a wildcard must be a token of its own, and > the last one"
    elif not of_stream and tokens[0] in ("*", ">", "_INBOX", "_R_", "_GR_"):
        problem = (
            "without a stream it must begin with a name that is not that of replies: give a stream, or name the subject"
        )
    elif not of_stream and tokens[0].startswith("$"):
        problem = "without a stream it must not begin with $, where NATS itself publishes"
    if problem:
        raise BadRequest(f"subject: {subject[:80]!r} cannot be read: {problem}")


class SourceMessage(NamedTuple):
    """A message as a source sees it. `at`: RFC 3339. `sequence`: 0 without a stream."""

    subject: str
    body: bytes
    headers: Mapping[str, str]
    sequence: int
    at: str


class RenderedStart(NamedTuple):
    """The flow that a message starts. `options`: JSON text."""

    workflow: str
    state: bytes
    options: bytes | None


class RenderedSignal(NamedTuple):
    """The event that a message signals."""

    event: str
    key: str
    data: Raw


class SourceTemplates:
    """The templates of one source, ready to be rendered for message after message."""

    def __init__(self, source: Source, max_depth: int = MAX_DEPTH) -> None:
        self._start, self._signal = source.start, source.signal
        self._max_depth = max_depth
        read: set[str] = set()
        for _, expression in source_expressions(source):
            condition = compiled(expression)
            if isinstance(condition, str):
                continue
            read.update(VARIABLES if condition.whole and condition.parts is None else fields_of(expression))
        self._read = read
        self.workflow_varies = source.start is not None and templates.expression_of(source.start.workflow) is not None

    def variables(self, message: SourceMessage) -> State:
        """Return what the templates read of a message. Raises `BadRequest` if it does not have that."""
        found: State = {}
        read = self._read
        if "data" in read:
            if not message.body.strip():
                found["data"] = NULL
            else:
                check_json(message.body, "the body of the message", self._max_depth)
                found["data"] = Raw(message.body)
        if "text" in read:
            try:
                text = message.body.decode()
            except UnicodeDecodeError:
                raise BadRequest("the body of the message is not UTF-8, and the source reads `text`") from None
            found["text"] = Raw(encode_value(text))
        if "subject" in read:
            found["subject"] = Raw(encode_value(message.subject))
        if "headers" in read:
            found["headers"] = Raw(encode_value(dict(message.headers)))
        if "sequence" in read:
            found["sequence"] = Raw(str(message.sequence).encode()) if message.sequence else NULL
        if "time" in read:
            found["time"] = Raw(encode_value(message.at))
        return found

    def start(self, message: SourceMessage) -> RenderedStart:
        """Return the flow of a message. Raises `BadRequest` with the place."""
        start = self._start
        assert start is not None
        variables = self.variables(message)
        state = templates.render(start.state, variables, where="start.state", max_depth=self._max_depth)
        if bytes(state).lstrip()[:1] != b"{":
            raise BadRequest(f"start.state gives {json_type(msgspec.json.decode(state))}, and a state is an object")
        options = None
        if start.options is not None:
            options = bytes(
                templates.render(start.options, variables, where="start.options", max_depth=self._max_depth)
            )
        workflow = templates.render_text(start.workflow, variables, where="start.workflow")
        return RenderedStart(workflow, bytes(state), options)

    def signal(self, message: SourceMessage) -> RenderedSignal:
        """Return the event of a message. Raises `BadRequest` with the place."""
        signal = self._signal
        assert signal is not None
        variables = self.variables(message)
        return RenderedSignal(
            templates.render_text(signal.event, variables, where="signal.event"),
            templates.render_text(signal.key, variables, where="signal.key"),
            templates.render(signal.data, variables, where="signal.data", max_depth=self._max_depth),
        )
