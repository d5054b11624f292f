"""The catalogue: what T1 asks for is in it, its names survive Prometheus, the documentation is written from it."""

from __future__ import annotations

import re
from pathlib import Path

from dwarf_nats.telemetry import catalogue
from dwarf_nats.telemetry.catalogue import CATALOGUE, Kind, Metric
from dwarf_nats.telemetry.counters import Counters

DOCS = Path(__file__).parents[2] / "docs"
T1 = {
    "dwarf_flows_started_total": ("workflow",),
    "dwarf_flows_terminated_total": ("workflow", "status"),
    "dwarf_steps_executed_total": ("task", "status"),
    "dwarf_steps_recovered_total": (),
    "dwarf_steps_skipped_saturated_total": ("task",),
    "dwarf_task_rate_cuts_total": ("task",),
    "dwarf_task_breaker_trips_total": ("task", "cause"),
    "dwarf_task_breaker_probes_total": ("task", "outcome", "cause"),
    "dwarf_steps_queue_depth": (),
    "dwarf_steps_pending": ("priority",),
    "dwarf_steps_oldest_pending_age_seconds": ("priority",),
    "dwarf_steps_fairness_keys": ("priority",),
    "dwarf_task_rate_limit": ("task",),
    "dwarf_task_concurrency_running": ("task",),
    "dwarf_task_breaker_state": ("task",),
}
UNITS = {"s": "seconds", "1": ""}


def in_prometheus(metric: Metric) -> str:
    """The name by which Prometheus keeps it: the unit at the end if it is not in the name, then `total` for a counter.

    Units in braces are dropped; a gauge without a dimension gets `ratio`.
    """
    tokens = [one for one in re.split(r"[^A-Za-z0-9:]+", metric.name) if one]
    unit = "" if metric.unit.startswith("{") else UNITS[metric.unit]
    if unit and unit not in tokens:
        tokens.append(unit)
    if metric.kind is Kind.COUNTER:
        tokens = [one for one in tokens if one != "total"] + ["total"]
    if metric.unit == "1" and metric.kind is Kind.GAUGE:
        tokens.append("ratio")
    return "_".join(tokens)


def test_every_metric_of_the_contract_is_there_with_its_labels() -> None:
    """T1"""
    known = {one.name: one.labels for one in CATALOGUE}
    assert {name: known.get(name) for name in T1} == T1
    assert [one.name for one in CATALOGUE if one.kind is Kind.HISTOGRAM] == [
        "dwarf_flow_duration_seconds",
        "dwarf_step_queue_wait_seconds",
        "dwarf_step_task_seconds",
        "dwarf_step_commit_seconds",
    ]


def test_names_are_unique_and_come_out_of_prometheus_as_they_are() -> None:
    assert len({one.name for one in CATALOGUE}) == len(CATALOGUE)
    assert {one.name: in_prometheus(one) for one in CATALOGUE} == {one.name: one.name for one in CATALOGUE}


def test_every_metric_says_what_it_is_good_for() -> None:
    for one in CATALOGUE:
        assert one.description.endswith(".")
        assert one.interpretation.endswith(".")
        assert bool(one.buckets) is (one.kind is Kind.HISTOGRAM)
        assert list(one.buckets) == sorted(set(one.buckets))


def test_no_label_can_hold_a_key() -> None:
    """Labels are names of workflows, tasks and sources, and words and numbers of ours."""
    labels = {label for one in CATALOGUE for label in one.labels}
    assert labels == {
        "workflow",
        "task",
        "status",
        "cause",
        "outcome",
        "operation",
        "code",
        "shard",
        "priority",
        "limit",
        "source",
        "state",
    }


def test_the_tally_counts_counters_of_the_catalogue_each_once() -> None:
    counted = [one.metric for one in Counters().counts()]
    assert len({one.name for one in counted}) == len(counted)
    elsewhere = {catalogue.OUTAGES, catalogue.COMMITS, catalogue.COMMITTED}
    assert {one for one in CATALOGUE if one.kind is Kind.COUNTER} == {*counted, *elsewhere}


def test_the_documentation_is_what_the_catalogue_says() -> None:
    """If this fails: python -m dwarf_nats.telemetry.catalogue > docs/operating/metrics.md"""
    assert (DOCS / "operating" / "metrics.md").read_text() == catalogue.document()


def test_names_that_callers_make_up_share_one_series_beyond_the_limit() -> None:
    counters = Counters()
    for number in range(catalogue.MANY_NAMES + 5):
        counters.executed.add(f"task{number}", "completed")
    counters.executed.add("task1", "completed")
    assert len(counters.executed) == catalogue.MANY_NAMES + 1
    assert counters.executed[catalogue.OTHER, "completed"] == 5
    assert counters.executed["task1", "completed"] == 2
