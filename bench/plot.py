"""Result files as one picture. Run in the environment of the peers, which has matplotlib; imports nothing of dwarf_nats.

python bench/plot.py OUT.png RESULT.json …
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

Case = dict[str, Any]
INK, OURS, SQLITE, THEIRS, TARGET = "#222222", "#2563eb", "#0f766e", "#a3a3a3", "#dc2626"
COLORS = {"postgresql": OURS, "sqlite": SQLITE}


def median(arm: Case, name: str) -> float:
    """Over the rounds; a figure of its own or one of `measures`."""
    return statistics.median(one.get("measures", {}).get(name, one.get(name)) for one in arm["rounds"])


def shares(case: Case) -> dict[str, float]:
    """Steps/s of each arm but the first, against the first, of rounds side by side."""
    first, *others = case["arms"]
    return {
        arm["name"]: statistics.median(
            ours["steps_per_s"] / its["steps_per_s"] for ours, its in zip(arm["rounds"], first["rounds"], strict=False)
        )
        for arm in others
    }


def bars(axes: Any, values: dict[str, float], colors: list[str], text: str, target: float | None = None) -> None:
    """Horizontal, the first on top, each with its value."""
    names = list(values)[::-1]
    drawn = axes.barh(names, [values[name] for name in names], color=colors[::-1], height=0.65)
    axes.bar_label(drawn, labels=[text.format(values[name]) for name in names], padding=3, fontsize=8, color=INK)
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    if target is not None:
        axes.axvline(target, color=TARGET, linewidth=1, linestyle="--")


def peers(axes: Any, cases: list[Case]) -> None:
    best: dict[str, float] = {}
    for case in cases:
        if case["name"] == "peers" and case["steps_per_flow"] == 10:
            for arm in case["arms"]:
                best[arm["name"]] = max(best.get(arm["name"], 0), median(arm, "steps_per_s"))
    if best:
        values = {name.replace("postgresql", "dwarf-nats"): best[name] for name in best}
        bars(axes, values, [COLORS.get(name, THEIRS) for name in best], "{:,.0f}")
    axes.set_title("Steps/s, flows of ten steps, each at its best")


def floor(axes: Any, cases: list[Case]) -> None:
    values, colors = {}, []
    for case in cases:
        if case["name"] == "floor-linear":
            for name, value in shares(case).items():
                values[f"{case['concurrency']} flows, {name}"] = value
                colors.append(COLORS[name])
    bars(axes, values, colors, "{:.2f}", 0.35)
    axes.set_title("Steps/s of the floor's, target 0.35")


def kept(axes: Any, cases: list[Case]) -> None:
    values = {}
    for case in cases:
        if case["name"] in ("backlog", "history"):
            values |= shares(case)
    bars(axes, values, [OURS] * len(values), "{:.2f}", 0.8)
    axes.set_title("Steps/s against empty tables, target 0.80")


def payload(axes: Any, cases: list[Case]) -> None:
    values, colors = {}, []
    for case in cases:
        if case["name"] == "payload":
            for arm in case["arms"][1:]:
                values[f"{case['label']}, {arm['name']}"] = median(arm, "mb_per_s")
                colors.append(OURS if arm["name"] == "unchanged" else "#93c5fd")
    bars(axes, values, colors, "{:,.0f}")
    axes.set_title("MB/s carried through ten steps")


def branches(axes: Any, cases: list[Case]) -> None:
    values = {}
    for case in cases:
        if case["name"] == "fan-out":
            values = {arm["name"]: median(arm, "us_per_branch") for arm in case["arms"]}
    bars(axes, values, [OURS] * len(values), "{:,.0f}")
    axes.set_title("Microseconds a branch of a fan-out")


def soak(axes: Any, cases: list[Case]) -> None:
    for case in cases:
        if case["name"] == "soak":
            minutes = case["arms"][0]["rounds"]
            at = range(1, len(minutes) + 1)
            for name, label, color in (("rss_mib", "memory of the replica", OURS), ("tables_mib", "tables", SQLITE)):
                axes.plot(
                    at, [one["measures"][name] for one in minutes], marker="o", markersize=3, label=label, color=color
                )
            axes.legend(frameon=False, fontsize=8)
            axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes", fontsize=8)
    axes.set_title("MiB under load, flows deleted once completed")


PANELS: tuple[Callable[[Any, list[Case]], None], ...] = (peers, floor, kept, payload, branches, soak)


def main(out: str, *files: str) -> None:
    """Draw."""
    runs = [json.loads(Path(file).read_text()) for file in files]
    cases = [case for run in runs for case in run["cases"]]
    pyplot.rcParams.update({"font.size": 8, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, grid = pyplot.subplots(2, 3, figsize=(13, 6.5), dpi=110)
    for panel, axes in zip(PANELS, grid.flat, strict=True):
        panel(axes, cases)
    machine = runs[0]["machine"]
    figure.suptitle(
        f"dwarf-nats: {machine['cpu']}, {machine['cores']} cores for everything, {runs[0]['started'][:10]}", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
