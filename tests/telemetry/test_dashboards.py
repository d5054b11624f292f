"""The dashboard and the alert rules ask for metrics that there are, by labels that those have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dwarf_nats.telemetry.catalogue import CATALOGUE, Kind

OPERATING = Path(__file__).parents[2] / "docs" / "operating"
ASKED = re.compile(r"\bdwarf_[a-z0-9_]+")
BY = re.compile(r"\bby \(([^)]*)\)")
SELECTED = re.compile(r"(\w+)=~?\"")
ADDED = {"job", "instance", "le"}
"""Labels that come from the resource, or from histograms."""


def series() -> dict[str, set[str]]:
    """The names under which Prometheus keeps the catalogue, with their labels."""
    found: dict[str, set[str]] = {}
    for one in CATALOGUE:
        suffixes = ("_bucket", "_sum", "_count") if one.kind is Kind.HISTOGRAM else ("",)
        found |= {one.name + suffix: set(one.labels) for suffix in suffixes}
    return found


def dashboard() -> dict[str, Any]:
    made: dict[str, Any] = json.loads((OPERATING / "grafana" / "dwarf-nats.json").read_text())
    return made


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((OPERATING / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (rule["expr"] for rule in rules())


def test_what_is_asked_for_is_in_the_catalogue_with_its_labels() -> None:
    known = series()
    for expression in expressions():
        asked = ASKED.findall(expression)
        assert asked, expression
        assert set(asked) <= known.keys(), expression
        labels = set.union(*(known[name] for name in asked)) | ADDED
        grouped = {label.strip() for by in BY.findall(expression) for label in by.split(",")}
        assert grouped | set(SELECTED.findall(expression)) <= labels, expression


def test_every_metric_but_the_sums_of_histograms_is_on_the_dashboard() -> None:
    asked = {
        name
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
        for name in ASKED.findall(target["expr"])
    }
    drawn = {name.removesuffix("_bucket") for name in asked}
    assert drawn == {one.name for one in CATALOGUE}


def test_what_rests_at_zero_has_an_alert() -> None:
    asked = {name for rule in rules() for name in ASKED.findall(rule["expr"])}
    assert {one.name for one in CATALOGUE if one.rests_at_zero} <= asked


def test_what_is_the_same_on_every_replica_is_never_added_up() -> None:
    same = [one.name for one in CATALOGUE if one.of_deployment]
    for expression in expressions():
        for name in same:
            assert not re.search(rf"sum[^(]*\({name}", expression), expression


def test_alerts_are_named_once_and_say_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_dashboard_leaves_its_datasource_to_whoever_imports_it() -> None:
    made = dashboard()
    assert {one["name"]: one["type"] for one in made["templating"]["list"]} == {
        "datasource": "datasource",
        "job": "query",
    }
    panels = [panel for panel in made["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    assert [panel["title"] for panel in made["panels"] if panel["type"] == "row"] == [
        "Health: all of these rest at zero", "Flows", "Steps", "Queue", "Backpressure", "Service and databases",
        "Limits", "Schedules",
    ]  # fmt: skip


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NO PROMTOOL: install Debian's package prometheus to have the alert rules checked")
    rules_file = OPERATING / "prometheus" / "alerts.yml"
    done = subprocess.run([promtool, "check", "rules", str(rules_file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout
