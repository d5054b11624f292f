"""Retention rules: which flows are removed by themselves, once they have ended and are old enough (M2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import check_subject_name
from dwarf_nats.workflow.status import TERMINAL, Status
from dwarf_nats.workflow.tags import TagValue, checked_tags

KIND = "retention"
"""The kind of its definition."""
MAX_AGE_MS = 10**13
"""Largest age, about 300 years: beyond it the database's times overflow."""


class RetentionRule(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A rule that removes flows which ended more than `older_than_ms` ago, with their trees.

    `workflow`, `status`: only such flows; by default all that have ended. `keep_tagged`: flows that have all these tags stay.
    """

    name: str = ""
    workflow: str = ""
    status: str = ""
    older_than_ms: int = 0
    keep_tagged: dict[str, TagValue] = {}

    def body(self) -> str:
        """The JSON text of its definition."""
        return msgspec.json.encode(self).decode()


class RetentionInfo(NamedTuple):
    """A rule, the flows it has removed so far, when it was last carried out to the end, and when it was put last.

    Times are microseconds since the epoch; `None` for a rule that has not been carried out yet.
    """

    rule: RetentionRule
    removed: int
    last_run: int | None
    updated_at: int


class RetentionPreview(NamedTuple):
    """The flows that a rule would remove now, and when the first of them ended, in microseconds since the epoch.

    `truncated`: there was no time to look at all flows, so there may be more.
    """

    flows: int
    oldest: int | None
    truncated: bool


def checked_rule(rule: RetentionRule) -> RetentionRule:
    """Return a rule somebody gave. Raises `BadRequest` with the field and what to do."""
    check_name(rule.name)
    if rule.workflow:
        check_subject_name(rule.workflow, "workflow")
    if rule.status and (rule.status not in set(Status) or Status(rule.status) not in TERMINAL):
        raise BadRequest(
            f"status {rule.status!r} is not one in which a flow has ended: use completed, failed or cancelled,"
            " or leave it out for all three"
        )
    if not 0 < rule.older_than_ms <= MAX_AGE_MS:
        raise BadRequest(f"olderThanMs must be between 1 and {MAX_AGE_MS}, got {rule.older_than_ms}")
    if rule.keep_tagged:
        checked_tags(rule.keep_tagged, "keepTagged")
    return rule


def check_name(name: str) -> str:
    """Return the name of a rule. Raises `BadRequest`."""
    check_subject_name(name, "name")
    if "." in name:
        raise BadRequest(f"name {name!r} has a dot: use letters, digits, - and _")
    return name


def rules_of(definitions: Mapping[str, Any]) -> dict[str, RetentionRule]:
    """The rules of definitions by name, in the order of the names; a document that is none removes nothing."""
    found = {}
    for name, definition in sorted(definitions.items()):
        try:
            rule = msgspec.json.decode(definition.body, type=RetentionRule)
        except msgspec.MsgspecError:
            continue
        if rule.older_than_ms > 0:
            found[name] = rule
    return found
