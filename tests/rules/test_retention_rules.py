"""Which rule removes which flow, and what is no rule (M2)."""

from __future__ import annotations

from typing import Any

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.ports import Definition
from dwarf_nats.rules.retention import Candidate, RetentionPlan
from dwarf_nats.workflow.retention import RetentionRule, checked_rule, rules_of

NOW = 10**12
DAY_MS = 86_400_000


def rule(name: str = "r", **fields: Any) -> RetentionRule:
    return RetentionRule(name=name, **{"older_than_ms": DAY_MS, **fields})


def flow(**fields: Any) -> Candidate:
    old = NOW - 2 * DAY_MS * 1000
    return Candidate(old, 1, old, "completed", "order", None, 0)._replace(**fields)


@pytest.mark.parametrize(
    ("rules", "found", "name"),
    [
        ([rule()], flow(), "r"),
        ([rule()], flow(status="failed"), "r"),
        ([rule()], flow(status="cancelled"), "r"),
        ([rule()], flow(status="running"), ""),
        ([rule()], flow(status="interrupted"), ""),
        ([rule()], flow(status="created"), ""),
        ([rule()], flow(called=1), ""),
        ([rule()], flow(updated_at=NOW - DAY_MS * 1000), ""),
        ([rule()], flow(updated_at=NOW - DAY_MS * 1000 - 1), "r"),
        ([rule(status="failed")], flow(), ""),
        ([rule(workflow="other")], flow(), ""),
        ([rule(workflow="order", status="completed")], flow(), "r"),
        ([rule("a", status="failed"), rule("b"), rule("c")], flow(), "b"),
        ([rule(keep_tagged={"legal": "hold"})], flow(), "r"),
        ([rule(keep_tagged={"legal": "hold"})], flow(tags='{"legal":"hold","x":1}'), ""),
        ([rule(keep_tagged={"legal": "hold", "n": 7})], flow(tags='{"legal":"hold"}'), "r"),
        ([rule(keep_tagged={"n": 7})], flow(tags='{"n":"7"}'), ""),
        ([rule("a", keep_tagged={"n": 7}), rule("b")], flow(tags='{"n":7}'), "b"),
    ],
)
def test_the_first_rule_that_matches_removes_a_flow(rules: list[RetentionRule], found: Candidate, name: str) -> None:
    """M2: only ended root flows, by the age since their end; flows with all tags to keep stay, as far as that rule goes."""
    assert RetentionPlan(rules).rule_for(found, NOW) == name


def test_no_flow_younger_than_the_least_age_needs_to_be_looked_at() -> None:
    """M2."""
    assert RetentionPlan([rule("a"), rule("b", older_than_ms=5)]).least_age_us == 5000


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": ""}, "name"),
        ({"name": "a.b"}, "has a dot"),
        ({"status": "running"}, "use completed, failed or cancelled"),
        ({"status": "odd"}, "use completed, failed or cancelled"),
        ({"older_than_ms": 0}, "olderThanMs must be between 1 and"),
        ({"older_than_ms": 10**14}, "olderThanMs must be between 1 and"),
        ({"workflow": "a b"}, "workflow"),
        ({"keep_tagged": {"a.b": 1}}, "keepTagged has the name 'a.b'"),
    ],
)
def test_what_is_no_rule_is_refused_with_a_remedy(fields: dict[str, Any], why: str) -> None:
    """M2."""
    with pytest.raises(BadRequest, match=why):
        checked_rule(rule(**fields))


def test_rules_are_read_from_their_definitions_and_what_is_none_removes_nothing() -> None:
    """M2."""
    kept = checked_rule(rule("b", workflow="order", status="failed", keep_tagged={"n": 7, "x": True}))
    bodies = {"b": kept.body(), "a": rule("a").body(), "c": "{}", "d": "nonsense", "e": '{"olderThanMs":"x"}'}
    found = rules_of({name: Definition("retention", name, body, 0) for name, body in bodies.items()})
    assert found == {"a": rule("a"), "b": kept}
    assert list(found) == ["a", "b"]
