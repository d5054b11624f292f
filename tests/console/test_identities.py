"""Keys stay in memory: what pages get has ids."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dwarf_nats.console.identities import Identities
from dwarf_nats.console.sharing import Kept

FLOW, STEP, OTHER = "1-42-a1B2c3D4e5F6g7H8", "1-57-AAAAbbbbCCCCdddd", "1-43-ZZZZyyyyXXXXwwww"


def sealed(value: dict[str, Any], *, payloads: bool = True) -> tuple[Identities, Any]:
    identities = Identities()
    return identities, identities.sealed(json.dumps(value).encode(), payloads=payloads)


def test_keys_become_ids_and_are_kept() -> None:
    identities, found = sealed({"flowKey": FLOW, "threadKey": OTHER, "steps": [{"stepKey": STEP, "stepId": 57}]})
    assert found == {"flow": "1-42", "thread": "1-43", "steps": [{"step": "1-57", "stepId": 57}]}
    assert identities.flow_key("1-42") == FLOW
    assert identities.flow_key("1-43") == OTHER
    assert identities.step_key("1-57") == STEP
    assert identities.flow_key("1-57") is None


def test_a_state_teaches_no_key_and_shows_none() -> None:
    """A task could write a wrong key for a flow of somebody else into its state."""
    identities, found = sealed(
        {"state": {"flowKey": FLOW, "list": [f"see {STEP}"]}, "error": {"message": f"no {FLOW}"}}
    )
    assert found == {"state": {"flowKey": "1-42", "list": ["see 1-57"]}, "error": {"message": "no 1-42"}}
    assert identities.flow_key("1-42") is None


def test_without_payloads_values_of_workflows_are_left_out() -> None:
    _, found = sealed(
        {
            "flowKey": FLOW,
            "state": {"a": 1},
            "pauses": [{"stepKey": STEP, "payload": 1}],
            "error": {"message": "m", "x": 1},
        },
        payloads=False,
    )
    assert found == {"flow": "1-42", "pauses": [{"step": "1-57"}], "error": {"message": "m"}}


def test_the_least_used_keys_are_forgotten() -> None:
    identities = Identities(most=2)
    for number in (1, 2):
        identities.learn("flowKey", f"1-{number}-a1B2c3D4e5F6g7H8")
    identities.flow_key("1-1")
    identities.learn("flowKey", "1-3-a1B2c3D4e5F6g7H8")
    assert [identities.flow_key(f"1-{n}") is None for n in (1, 2, 3)] == [False, True, False]


def test_text_that_is_no_key_stays() -> None:
    identities, found = sealed({"flowKey": "nothing"})
    assert found == {"flow": "nothing"}
    assert identities.flow_key("nothing") is None


def test_a_history_tells_who_called_a_flow_at_any_depth() -> None:
    identities = Identities(most=2)
    inner = [{"step": "1-3", "subFlow": "1-30"}, {"step": "1-4"}]
    identities.learn_callers("1-10", [{"step": "1-1"}, {"step": "1-2", "subFlow": "1-20", "subHistory": inner}])
    assert [identities.caller_of(flow) for flow in ("1-10", "1-20", "1-30")] == ["", "1-10", "1-20"]
    identities.learn_callers("1-10", [{"step": "1-5", "subFlow": "1-40"}])
    assert [identities.caller_of(flow) for flow in ("1-20", "1-30", "1-40")].count("") == 1, "no more than two are kept"


ESCAPED = FLOW.replace("a", "\\u0061")


@pytest.mark.parametrize("text", [f'"see {FLOW}"', f'"see {ESCAPED}"', f'{{"{FLOW}": 1, "1-42-b1B2c3D4e5F6g7H8": 2}}'])
def test_no_text_shows_a_token_however_it_is_written(text: str) -> None:
    """Written with escapes, or as two names that differ by their tokens only."""
    identities = Identities()
    body = f'{{"flowKey":"{FLOW}","steps":[{{"stepKey":"{STEP}","problems":[{text}],"pause":{{"payload":{text}}}}}]}}'
    for payloads in (True, False):
        found = identities.sealed(body.encode(), payloads=payloads)
        assert found["flow"] == "1-42"
        assert found["steps"][0]["step"] == "1-57"
        assert ("payload" in found["steps"][0]["pause"]) == payloads
        written = json.dumps(found["steps"][0]["pause"])
        assert "a1B2" not in written
        assert "b1B2" not in written
    assert identities.step_key("1-57") == STEP


def test_what_is_kept_is_good_for_its_stamp_and_within_its_weight() -> None:
    kept: Kept[str] = Kept(most=10)
    kept.put("a", "1", "first", weight=6)
    assert (kept.get("a", "1"), kept.get("a", "2"), kept.get("b", "1")) == ("first", None, None)
    kept.put("b", "1", "second", weight=4)
    assert kept.get("a", "1") == "first"
    kept.put("c", "1", "third", weight=4)
    assert kept.get("b", "1") is None, "the least recently used one"
    kept.put("d", "1", "too heavy", weight=11)
    assert [kept.get(one, "1") for one in "abcd"] == [None] * 4
