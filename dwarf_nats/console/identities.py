"""Flow and step keys in memory, under their token-free ids.

A key is a capability. So no address, page or log line of the console has one: they have ids such as `1-42`. Here are the keys
to the ids that one NATS user has seen. Another user of the console does not get them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.keys import parse_key, without_tokens

MAX_KEYS = 100_000
"""Keys that are kept; the least recently used ones are looked up again when needed."""
KEY_FIELDS = {
    "flowKey": "flow",
    "threadKey": "thread",
    "stepKey": "step",
    "prevKey": "prev",
    "nextKey": "next",
    "subFlowKey": "subFlow",
}
"""Field of the wire that holds a key → field with the id in its place, as pages see it."""
PAYLOAD_FIELDS = frozenset({"state", "changes", "interruptPayload", "payload", "data"})
"""Fields that hold values of the workflow, left out with `--no-payloads`."""
_OPAQUE = PAYLOAD_FIELDS | {"tags", "error", "handledError", "graph"}
"""Fields whose inner names are not ours: a name such as `flowKey` means nothing there."""


class Identities:
    """The keys of flows and steps that one NATS user has seen. Flows and steps are numbered apart."""

    def __init__(self, most: int = MAX_KEYS) -> None:
        self._most = most
        self._flows: OrderedDict[str, str] = OrderedDict()
        self._steps: OrderedDict[str, str] = OrderedDict()
        self._callers: OrderedDict[str, str] = OrderedDict()

    def flow_key(self, flow_id: str) -> str | None:
        """The key of a flow or thread, if it has been seen."""
        return _used(self._flows, flow_id)

    def step_key(self, step_id: str) -> str | None:
        """The key of a step, if it has been seen."""
        return _used(self._steps, step_id)

    def caller_of(self, flow_id: str) -> str:
        """The id of the flow that called this one, if a history has said so; else empty."""
        return _used(self._callers, flow_id) or ""

    def learn_callers(self, flow_id: str, steps: Sequence[Mapping[str, Any]]) -> None:
        """Keep which flows the steps of a flow, as pages see them, have called."""
        pending = [(flow_id, steps)]
        while pending:
            caller, some = pending.pop()
            for step in some:
                called = step.get("subFlow")
                if not called:
                    continue
                self._callers[called] = caller
                self._callers.move_to_end(called)
                pending.append((called, step.get("subHistory") or ()))
        while len(self._callers) > self._most:
            self._callers.popitem(last=False)

    def learn(self, field: str, key: str) -> str:
        """Keep the key found in a field of the wire, and return its id. Text that is no key is returned as it is."""
        try:
            public_id = parse_key(key).public_id
        except BadRequest:
            return key
        kept = self._steps if field in ("stepKey", "prevKey", "nextKey") else self._flows
        kept[public_id] = key
        kept.move_to_end(public_id)
        if len(kept) > self._most:
            kept.popitem(last=False)
        return public_id

    def sealed(self, body: bytes, *, payloads: bool) -> dict[str, Any]:
        """A reply of the wire as pages see it: ids for keys, under the names of `KEY_FIELDS`.

        Keys in texts and in values of a workflow lose their tokens. Without `payloads`, values of a workflow are left out.
        """
        raw = orjson.loads(body)
        if b"\\u" in body:  # a key may hide behind escapes: look at each text by itself
            return dict(self._sealed(raw, payloads))
        found: dict[str, Any] = self._paired(raw, orjson.loads(without_tokens(body.decode())), payloads)
        return found

    def _paired(self, raw: dict[str, Any], shown: dict[str, Any], payloads: bool) -> dict[str, Any]:
        """As `_sealed`, of an object that is at hand without tokens, too: they are taken out of the whole text at once."""
        if len(raw) != len(shown):  # two names differed by their tokens only
            return dict(self._sealed(raw, payloads))
        found: dict[str, Any] = {}
        for (name, inner), value in zip(raw.items(), shown.values(), strict=True):
            if name in KEY_FIELDS and isinstance(inner, str):
                found[KEY_FIELDS[name]] = self.learn(name, inner)
            elif name in _OPAQUE:
                if payloads or name not in PAYLOAD_FIELDS:
                    found[name] = value if payloads else _within(value)
            elif isinstance(inner, dict):
                found[name] = self._paired(inner, value, payloads)
            elif isinstance(inner, list):
                found[name] = self._paired_members(inner, value, payloads)
            else:
                found[name] = value
        return found

    def _paired_members(self, raw: list[Any], shown: list[Any], payloads: bool) -> list[Any]:
        return [
            self._paired(one, value, payloads)
            if isinstance(one, dict)
            else self._paired_members(one, value, payloads)
            if isinstance(one, list)
            else value
            for one, value in zip(raw, shown, strict=True)
        ]

    def _sealed(self, value: Any, payloads: bool) -> Any:
        if isinstance(value, str):
            return without_tokens(value)
        if isinstance(value, list):
            return [self._sealed(one, payloads) for one in value]
        if not isinstance(value, dict):
            return value
        found: dict[str, Any] = {}
        for name, inner in value.items():
            if name in KEY_FIELDS and isinstance(inner, str):
                found[KEY_FIELDS[name]] = self.learn(name, inner)
            elif name in _OPAQUE:
                if payloads or name not in PAYLOAD_FIELDS:
                    found[name] = scrubbed_value(inner, whole=payloads)
            else:
                found[name] = self._sealed(inner, payloads)
        return found


def plain_document(body: bytes, *, payloads: bool) -> tuple[dict[str, Any], bool]:
    """A reply of the wire without the tokens of keys, and whether it had any. Without `payloads`, no values of a workflow."""
    text = body.decode()
    shown = without_tokens(text)
    found: dict[str, Any] = orjson.loads(shown)
    return (found if payloads else _without_payloads(found)), shown != text


def _without_payloads(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_payloads(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _without_payloads(inner)
        for name, inner in value.items()
        if name not in PAYLOAD_FIELDS or (name == "state" and isinstance(inner, str))
    }


def scrubbed_value(value: Any, *, whole: bool = True) -> Any:
    """A value without the tokens of keys in it. Unless `whole`, an error keeps its message and its code only."""
    return orjson.loads(without_tokens(orjson.dumps(value if whole else _within(value)).decode()))


def _within(value: Any) -> Any:
    """Of an error its message and its code; anything else as it is."""
    if isinstance(value, Mapping) and "message" in value:
        return {name: value[name] for name in ("message", "code") if name in value}
    return value


def _used(kept: OrderedDict[str, str], public_id: str) -> str | None:
    key = kept.get(public_id)
    if key is not None:
        kept.move_to_end(public_id)
    return key
