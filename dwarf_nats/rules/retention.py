"""Retention: which rule removes a flow (M2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dwarf_nats.workflow.retention import RetentionRule
from dwarf_nats.workflow.status import TERMINAL
from dwarf_nats.workflow.tags import read, tag_texts


class Candidate(NamedTuple):
    """A flow as far as a rule asks for it. `tags`: as they are stored. `called`: 1 if another flow called it."""

    created_at: int
    flow_id: int
    updated_at: int
    status: str
    workflow: str
    tags: str | None
    called: int


class RetentionPlan:
    """The rules together, in their order: the first one that removes a flow counts it."""

    def __init__(self, rules: Sequence[RetentionRule]) -> None:
        self.rules = tuple(rules)
        self._kept = {rule.name: frozenset(tag_texts(rule.keep_tagged)) for rule in rules}

    @property
    def least_age_us(self) -> int:
        """The age below which no rule removes a flow, in microseconds."""
        return min(rule.older_than_ms for rule in self.rules) * 1000

    def rule_for(self, flow: Candidate, now: int) -> str:
        """Return the name of the rule that removes a flow; empty if none does. A flow has its age since it ended."""
        if flow.called or flow.status not in TERMINAL:
            return ""
        for rule in self.rules:
            if self._matches(rule, flow, now):
                return rule.name
        return ""

    def _matches(self, rule: RetentionRule, flow: Candidate, now: int) -> bool:
        if rule.workflow not in ("", flow.workflow) or rule.status not in ("", flow.status):
            return False
        if now - flow.updated_at <= rule.older_than_ms * 1000:
            return False
        kept = self._kept[rule.name]
        return not (kept and flow.tags is not None and kept <= set(tag_texts(read(flow.tags))))
