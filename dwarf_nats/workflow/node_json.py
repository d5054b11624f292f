"""Nodes to JSON and back (G8, N1-N9): their kinds and policies, the defaults and the fields of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import shapes
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.nodes import (
    Action,
    AskPerson,
    Compensation,
    Defaults,
    Field,
    NodeKind,
    PublishMessage,
    RetryPolicy,
    RunWorkflow,
    SendRequest,
    SetFields,
    Sleep,
    WaitForEvent,
)
from dwarf_nats.workflow.shapes import place
from dwarf_nats.workflow.state import json_type

_Values = Mapping[str, Any]
_KINDS = tuple(kind.value for kind in NodeKind if kind is not NodeKind.TASK)
_COMPENSATIONS = (NodeKind.REQUEST.value, NodeKind.PUBLISH.value, NodeKind.SET.value)
TASK_KEYS = ("name", "url", "fanIn", *_KINDS, "input", "into", "timeoutMs", "queueTimeoutMs", "retry", "compensate")
"""The keys of a node."""


# -- kinds -------------------------------------------------------------------------------------------------------


def read_action(task: _Values, where: str) -> Action | None:
    """The action of a node, `None` for one that asks a task. `where`: the node, such as `graph 'order', node 'quote'`."""
    named = [key for key in _KINDS if key in task]
    found = [key for key in named if task[key] is not None]
    if "url" in task and task["url"] is not None:
        found.insert(0, "url")
    if len(found) > 1:
        shown = " and ".join(map(repr, found))
        raise BadRequest(
            f"{where}: it has {shown}: a node has one kind, so keep one of them, and add a node for the other"
        )
    if len(named) == 1 and not found:
        raise BadRequest(
            f"{where}: {named[0]!r} is null: write what it does, or remove the key for a node that asks a task"
        )
    kind = found[0] if found else "url"
    if kind != NodeKind.WORKFLOW and task.get("input") is not None:
        raise BadRequest(f"{where}: 'input' is what a workflow is given: name the workflow, or remove it")
    return None if kind == "url" else _ACTIONS[kind](task, where)


def _set(task: _Values, where: str) -> SetFields:
    return SetFields(shapes.mapping(task, "set", where))


def _workflow(task: _Values, where: str) -> RunWorkflow:
    return RunWorkflow(shapes.text(task, "workflow", where), shapes.mapping(task, "input", where))


def _request(task: _Values, where: str) -> SendRequest:
    inner, inside = _inner(task, "request", where, ("subject", "payload", "headers"))
    return SendRequest(
        subject=shapes.text(inner, "subject", inside),
        payload=inner.get("payload", msgspec.UNSET),
        headers=shapes.mapping(inner, "headers", inside),
    )


def _publish(task: _Values, where: str) -> PublishMessage:
    inner, inside = _inner(task, "publish", where, ("subject", "payload", "headers", "stream"))
    return PublishMessage(
        subject=shapes.text(inner, "subject", inside),
        payload=inner.get("payload", msgspec.UNSET),
        headers=shapes.mapping(inner, "headers", inside),
        stream=shapes.flag(inner, "stream", inside),
    )


def _wait(task: _Values, where: str) -> WaitForEvent:
    inner, inside = _inner(task, "wait", where, ("event", "key", "timeoutMs"))
    return WaitForEvent(
        event=shapes.text(inner, "event", inside),
        key=shapes.text(inner, "key", inside),
        timeout_ms=shapes.integer(inner, "timeoutMs", inside),
    )


def _ask(task: _Values, where: str) -> AskPerson:
    inner, inside = _inner(task, "ask", where, ("payload", "timeoutMs"))
    return AskPerson(payload=inner.get("payload"), timeout_ms=shapes.integer(inner, "timeoutMs", inside))


def _sleep(task: _Values, where: str) -> Sleep:
    inner, inside = _inner(task, "sleep", where, ("ms", "until"))
    ms = inner.get("ms")
    return Sleep(
        ms=ms if isinstance(ms, str) else shapes.integer(inner, "ms", inside),
        until=shapes.text(inner, "until", inside) if inner.get("until") is not None else None,
    )


_ACTIONS: dict[str, Callable[[_Values, str], Action]] = {
    "set": _set,
    "workflow": _workflow,
    "request": _request,
    "publish": _publish,
    "wait": _wait,
    "ask": _ask,
    "sleep": _sleep,
}


def _inner(task: _Values, key: str, where: str, known: tuple[str, ...]) -> tuple[_Values, str]:
    """The object of a kind, and its place."""
    inside = place(where, key)
    found = shapes.mapping(task, key, where)
    shapes.check_keys(found, known, inside)
    return found, inside


def write_action(action: Action) -> dict[str, Any]:
    """The keys of a node with this action."""
    match action:
        case SetFields():
            return {"set": _sorted(action.fields)}
        case RunWorkflow():
            return {"workflow": action.workflow} | _given(input=action.input or None)
        case SendRequest():
            return {"request": _message(action)}
        case PublishMessage():
            return {"publish": _message(action) | _given(stream=action.stream or None)}
        case WaitForEvent():
            return {"wait": {"event": action.event} | _given(key=action.key or None, timeoutMs=action.timeout_ms)}
        case AskPerson():
            return {"ask": _given(payload=action.payload, timeoutMs=action.timeout_ms)}
        case Sleep():
            return {"sleep": _given(ms=action.ms, until=action.until)}


def _message(action: SendRequest | PublishMessage) -> dict[str, Any]:
    values: dict[str, Any] = {"subject": action.subject}
    if action.payload is not msgspec.UNSET:
        values["payload"] = _sorted(action.payload)
    return values | _given(headers=action.headers or None)


# -- policies ----------------------------------------------------------------------------------------------------

_RETRY_KEYS = {
    "maxAttempts": "max_attempts",
    "initialDelayMs": "initial_delay_ms",
    "multiplier": "multiplier",
    "maxDelayMs": "max_delay_ms",
    "giveUpAfterMs": "give_up_after_ms",
    "jitter": "jitter",
    "codes": "codes",
}


def read_retry(values: _Values, where: str) -> RetryPolicy | None:
    """The policy in `retry`; `None` if it is absent."""
    if values.get("retry") is None:
        return None
    inner, inside = _inner(values, "retry", where, tuple(_RETRY_KEYS))
    found: dict[str, Any] = {}
    for key, name in _RETRY_KEYS.items():
        if inner.get(key) is not None:
            read: _Reader = _RETRY_READERS.get(key, shapes.integer)
            found[name] = read(inner, key, inside)
    return RetryPolicy(**found)


_Reader = Callable[[_Values, str, str], Any]
_RETRY_READERS: dict[str, _Reader] = {
    "multiplier": shapes.number,
    "jitter": shapes.number,
    "codes": shapes.integers,
}


def write_retry(policy: RetryPolicy) -> dict[str, Any]:
    """The values of a policy that are not the defaults."""
    usual = RetryPolicy()
    values = {
        key: getattr(policy, name) for key, name in _RETRY_KEYS.items() if getattr(policy, name) != getattr(usual, name)
    }
    if "codes" in values:
        values["codes"] = list(values["codes"])
    return values


def read_compensation(task: _Values, where: str) -> Compensation | None:
    """The compensation of a node: a text is the url of a task."""
    value = task.get("compensate")
    if value is None:
        return None
    if isinstance(value, str):
        return Compensation(url=value)
    if not isinstance(value, Mapping):
        raise BadRequest(
            f"{where}: 'compensate' must be the url of a task, or an object with a request, a publish or a set,"
            f" got {json_type(value)}"
        )
    inside = place(where, "compensate")
    shapes.check_keys(value, _COMPENSATIONS, inside)
    found = [key for key in _COMPENSATIONS if value.get(key) is not None]
    if len(found) != 1:
        shown = " and ".join(map(repr, found)) or "nothing"
        raise BadRequest(
            f"{inside}: it has {shown}: write exactly one of 'request', 'publish' and 'set', or the url of a task"
        )
    action = _ACTIONS[found[0]](value, inside)
    assert isinstance(action, SetFields | SendRequest | PublishMessage)
    return Compensation(action=action)


def write_policies(
    timeout_ms: int | None,
    retry: RetryPolicy | None,
    compensate: Compensation | None = None,
    *,
    queue_timeout_ms: int | None = None,
) -> dict[str, Any]:
    """The keys of the policies that are given."""
    values = _given(timeoutMs=timeout_ms, queueTimeoutMs=queue_timeout_ms)
    if retry is not None:
        values["retry"] = write_retry(retry)
    if compensate is not None:
        values["compensate"] = compensate.url if compensate.action is None else write_action(compensate.action)
    return values


# -- the graph ---------------------------------------------------------------------------------------------------


def read_defaults(values: _Values, where: str) -> Defaults:
    """The policies in `defaults`."""
    if values.get("defaults") is None:
        return Defaults()
    inner, inside = _inner(values, "defaults", where, ("timeoutMs", "queueTimeoutMs", "retry"))
    return Defaults(
        timeout_ms=shapes.integer(inner, "timeoutMs", inside),
        queue_timeout_ms=shapes.integer(inner, "queueTimeoutMs", inside),
        retry=read_retry(inner, inside),
    )


_FIELD_KEYS = ("type", "required", "default", "description", "sealed")


def read_fields(values: _Values, where: str) -> dict[str, Field]:
    """The fields that are declared in `fields`; one without a definition is a field of any type."""
    found: dict[str, Field] = {}
    for name, declared in shapes.mapping(values, "fields", where).items():
        field = f"field {name[:80]!r}"
        inside = where if where == field else f"{where}, {field}"
        if declared is not None and not isinstance(declared, Mapping):
            raise BadRequest(
                f"{inside}: it must be an object such as {{type: string, required: true}}, got {json_type(declared)}"
            )
        given: _Values = declared or {}
        shapes.check_keys(given, _FIELD_KEYS, inside)
        default = given.get("default")
        found[name] = Field(
            types=_types(given.get("type"), inside),
            required=shapes.flag(given, "required", inside),
            default=msgspec.UNSET if default is None else default,
            description=shapes.text(given, "description", inside),
            sealed=shapes.flag(given, "sealed", inside),
        )
    return found


def _types(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    types = value if isinstance(value, list) else [value]
    for one in types:
        if not isinstance(one, str):
            raise BadRequest(
                f"{where}: 'type' must be the name of a type, or an array of such names, got {json_type(one)}"
            )
        if one not in FIELD_TYPES:
            raise BadRequest(f"{where}: unknown type {one!r}: {closest(one, FIELD_TYPES)}")
    return tuple(dict.fromkeys(types))


FIELD_TYPES = ("string", "number", "integer", "boolean", "object", "array")
"""The names of the types of fields, as in JSON Schema."""


def write_fields(fields: Mapping[str, Field]) -> dict[str, Any]:
    """The declarations in the order of their names."""
    return {name: _field(one) for name, one in sorted(fields.items())}


def _field(field: Field) -> dict[str, Any]:
    types = field.types[0] if len(field.types) == 1 else list(field.types) or None
    values = _given(type=types, required=field.required or None)
    if field.default is not msgspec.UNSET:
        values["default"] = _sorted(field.default)
    return values | _given(description=field.description or None, sealed=field.sealed or None)


def _given(**values: Any) -> dict[str, Any]:
    """The values that are not `None`, keys of objects in order: equal graphs have equal bytes."""
    return {key: _sorted(value) for key, value in values.items() if value is not None}


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(one) for key, one in sorted(value.items(), key=_name)}
    if isinstance(value, list | tuple):
        return [_sorted(one) for one in value]
    return value


def _name(member: tuple[Any, Any]) -> str:
    return str(member[0])
