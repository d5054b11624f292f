"""Tags on the command line: what a typed value is, and `flow find`, `flow tag` and `--tag` (Q1)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from dwarf_nats.cli.tag_args import read_changes, read_tags, read_value
from tests.cli.conftest import Run, served

TASKS = """
from dwarf_nats.sdk import Worker
worker = Worker()
@worker.task("demo.greet")
async def greet() -> None:
    pass
"""


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("4711", 4711),
        ("-3", -3),
        ("0.5", 0.5),
        ("true", True),
        ("false", False),
        ('"4711"', "4711"),
        ("007", "007"),
        ("1.10", "1.10"),
        ("1.0", "1.0"),
        ("1e5", "1e5"),
        ("9223372036854775808", 9223372036854775808),
        ("NaN", "NaN"),
        ("null", "null"),
        ("[1]", "[1]"),
        ("R-2026-7", "R-2026-7"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_a_typed_value_is_a_number_only_if_it_is_written_like_one(typed: str, value: Any) -> None:
    """Q1: so that what is typed is what is shown."""
    read = read_value(typed)
    assert (read, type(read)) == (value, type(value))


def test_terms_become_tags_and_changes() -> None:
    """Q1."""
    assert read_tags(["customer=4711", "text=a=b"]) == {"customer": 4711, "text": "a=b"}
    assert read_tags(None) is None
    assert read_tags([]) is None
    assert read_changes(["a=1", "b-", "c=x-"]) == {"a": 1, "b": None, "c": "x-"}
    for bad in (["a"], ["=1"], ["a.b=1"], ["-"], ["a=99999999999999999999"]):
        with pytest.raises(typer.BadParameter):
            read_changes(bad)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NATS of a running service with one worker."""
    with served(tmp_path_factory.mktemp("service"), TASKS) as url:
        yield url


@pytest.mark.slow
def test_flows_are_tagged_and_found(at: Run) -> None:
    """Q1."""
    made = at("flow", "run", "--task", "demo.greet", "--tag", "customer=4711", "--tag", "release=1.10", "--json")
    outcome = json.loads(made.stdout)
    key = outcome["flowKey"]
    assert outcome["tags"] == {"customer": 4711, "release": "1.10"}
    other = at(
        "flow", "create", "--task", "demo.greet", "--tag", 'customer="4711"', "--tag", "status=odd"
    ).stdout.strip()

    def keys(*terms: str) -> list[str]:
        result = at("flow", "find", *terms, "--json")
        assert result.exit_code == 0, result.output
        return [one["flowKey"] for one in json.loads(result.stdout)["flows"]]

    assert keys("customer=4711") == [other, key]
    assert keys("customer=4711", "status=completed") == [key]
    assert keys("customer=4711", "workflow=demo.greet", "task=demo.greet") == [other, key]
    assert keys("customer=4711", "--tag", "status=odd") == [other]
    assert keys("release=1.10") == [key]
    assert keys("release=1.1") == []
    assert keys(key) == [key]
    assert keys(key.rpartition("-")[0]) == [key]
    assert keys("customer=4711", "GREET") == [other, key]
    shown = at("flow", "find", "customer=4711").stdout
    assert "tags" in shown.splitlines()[0]
    assert "customer=4711 release=1.10" in shown
    listed = json.loads(at("flow", "list", "--tag", "customer=4711", "--tag", "release=1.10", "--json").stdout)
    assert [one["flowKey"] for one in listed["flows"]] == [key]

    tagged = at("flow", "tag", key, "paid=true", "release-")
    assert tagged.stdout == "customer=4711 paid=true\n"
    assert at("flow", "tag", key).stdout == "customer=4711 paid=true\n"
    assert json.loads(at("flow", "tag", key, "--json").stdout) == {"tags": {"customer": 4711, "paid": True}}
    assert "tags: customer=4711 paid=true" in at("flow", "get", key).stdout
    assert at("flow", "tag", other, "customer-", "status-").stdout == "no tags\n"

    (step,) = json.loads(at("flow", "history", key, "--json").stdout)["steps"]
    copy = at("flow", "fork", step["stepKey"], "--tag", "copy=1").stdout.strip()
    assert keys("copy=1") == [copy]
    following = at("flow", "continue", key, "--tag", "next=1").stdout.strip()
    assert keys("next=1") == [following]
    assert at("flow", "purge", "--status", "created", "--tag", "next=1", "--yes").stdout == "deleted 1 flow\n"
    assert keys("next=1") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("find", "customer=4711", "customer.x=1"), "tags has the name 'customer.x'"),
        (("find", "status=odd"), "odd"),
        (("find", "one", "two"), "search is given twice"),
        (("find", "status=failed", "--status", "failed"), "status is given twice"),
        (("list", "--tag", "customer"), "write NAME=VALUE"),
        (("tag", "1-1-" + "x" * 16, "a.b=1"), "tags has the name 'a.b'"),
        (("purge", "--tag", "a=1"), "purge needs at least one of --status, --workflow, --older-than"),
    ],
)
def test_mistakes_are_named(at: Run, arguments: tuple[str, ...], why: str) -> None:
    """Q1."""
    result = at("flow", *arguments)
    assert result.exit_code in (1, 2)
    assert why in result.output
