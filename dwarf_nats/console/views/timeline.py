"""A flow over time: a row a step, grouped by branch and child flow, with the stretches in which nothing ran cut short."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dwarf_nats.console.views.text import error_text, length
from dwarf_nats.console.views.walk import PRECEDENCE, WORDS, shown_status, status_word
from dwarf_nats.console.views.wire import Step
from dwarf_nats.render.dag import Dag, Path
from dwarf_nats.render.labels import clip, span

PAGE_ROWS = 200
"""Rows of one page."""
FOLD_BRANCHES = 12
"""Branches from which a fan-out is one row, until it is opened."""
IDLE_SHARE = 0.15
"""An idle stretch is cut if it is longer than this share of all busy time."""
CUT_SHARE = 0.04
"""Width of a cut stretch, of the whole."""
LABEL = 32
"""Characters of a row's name."""
MAX_CUTS = 40
"""Stretches that are cut; of more, the longest."""
MAX_LEVEL = 6
_NICE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
_LONGER = (7200, 14_400, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_592_000)


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a row, in per cent of the width. `kind`: queued, running, waiting, failed, completed, …"""

    kind: str
    left: float
    width: float
    title: str


@dataclass(slots=True)
class Row:
    """One row: a step, or many folded ones."""

    id: str
    label: str
    """Cut in the middle; `name` is whole."""
    status: str
    level: int
    bars: list[Bar]
    step: str = ""
    folded: str = ""
    """The id by which the branches it stands for are opened."""
    note: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of the axis."""

    left: float
    text: str


@dataclass(frozen=True, slots=True)
class Cut:
    """An idle stretch that is drawn shorter than it was."""

    left: float
    width: float
    title: str


@dataclass(slots=True)
class Timeline:
    """One page of rows, and the axis of the whole flow."""

    rows: list[Row]
    ticks: list[Tick]
    cuts: list[Cut]
    scale: list[tuple[float, float, float, float]] = field(default_factory=list)
    """Stretches of the axis: begin and end as shares of the width, begin and end in seconds since `start`."""
    start: datetime | None = None
    end: datetime | None = None
    total: int = 0
    page: int = 0

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PAGE_ROWS))


def timeline(steps: Sequence[Step], now: datetime, *, opened: frozenset[str] = frozenset(), page: int = 0) -> Timeline:
    """Lay out a history over time. `opened`: the ids of fan-outs whose branches are shown."""
    if not steps:
        return Timeline([], [], [])
    every = list(_with_children(steps))
    scale = Scale(every, now)
    rows = _Rows(scale, opened)
    rows.add(steps, 0)
    shown = rows.found[page * PAGE_ROWS : (page + 1) * PAGE_ROWS]
    drawn = [one() if callable(one) else one for one in shown]
    return Timeline(
        drawn,
        scale.ticks(),
        scale.cuts(),
        scale=scale.stretches(),
        start=scale.start,
        end=scale.end,
        total=len(rows.found),
        page=page,
    )


def _with_children(steps: Iterable[Step]) -> Iterator[Step]:
    pending = [steps]
    while pending:
        for step in pending.pop():
            yield step
            if step.sub_history:
                pending.append(step.sub_history)


class Scale:
    """Maps time to per cent of the width; idle stretches, in which no step worked, are cut short."""

    def __init__(self, steps: Sequence[Step], now: datetime) -> None:
        self.start = min(step.created_at for step in steps)
        self.end = max(
            max(step.updated_at for step in steps), now if any(not step.over for step in steps) else self.start
        )
        self.end = max(self.end, self.start + timedelta(milliseconds=1))
        self.now = now
        busy = self._busy(steps)
        total = sum((last - first for first, last in busy), timedelta())
        self._stretches = self._cut(busy, total)
        widths = self._weights()
        whole = sum(widths) or 1.0
        self._widths = [100 * one / whole for one in widths]
        self._lefts = [sum(self._widths[:number]) for number in range(len(widths))]
        self._starts = [first for first, _, _ in self._stretches]

    def _busy(self, steps: Sequence[Step]) -> list[tuple[datetime, datetime]]:
        """The stretches in which a step worked, joined."""
        joined: list[tuple[datetime, datetime]] = []
        begun, until = self.start, self.start
        for first, last in sorted(one for step in steps for one in self._worked(step)):
            if first > until:
                joined.append((begun, until))
                begun = first
            until = max(until, last)
        return [*joined, (begun, until)]

    def _worked(self, step: Step) -> Iterator[tuple[datetime, datetime]]:
        for one in step.attempts:
            if one.started_at is not None and one.ended_at is not None:
                yield one.started_at, max(one.started_at, one.ended_at)
        # What only waits leaves its two ends, so that they have a place.
        yield step.created_at, step.created_at
        last = step.updated_at if step.over else self.now
        if step.started_at is None:
            return
        if step.over and shown_status(step) == step.status and step.kind == "task":
            yield step.started_at, max(step.started_at, last)
        else:
            running = step.status == "running" and shown_status(step) == "running"
            yield (step.started_at, max(last, step.started_at)) if running else (step.started_at, step.started_at)
            yield max(last, self.start), max(last, self.start)

    def _cut(self, busy: list[tuple[datetime, datetime]], total: timedelta) -> list[tuple[datetime, datetime, bool]]:
        """The whole time in stretches: first, last, whether it is cut."""
        ends = [self.start, *(last for _, last in busy)]
        gaps = sorted((first - last for last, (first, _) in zip(ends, busy, strict=False)), reverse=True)
        most = max([total * IDLE_SHARE, timedelta(seconds=1), *gaps[MAX_CUTS : MAX_CUTS + 1]])
        found: list[tuple[datetime, datetime, bool]] = []
        begun = at = self.start
        for first, last in [*busy, (self.end, self.end)]:
            if first - at > most:
                if at > begun:
                    found.append((begun, at, False))
                found.append((at, first, True))
                begun = first
            at = max(at, last)
        if at > begun or not found:
            found.append((begun, at, False))
        return found

    def _weights(self) -> list[float]:
        """The widths of the stretches, to be brought to 100: busy ones by their length, cut ones alike."""
        busy = sum((last - first for first, last, is_cut in self._stretches if not is_cut), timedelta()).total_seconds()
        cuts = sum(is_cut for _, _, is_cut in self._stretches)
        share = min(CUT_SHARE, 0.4 / cuts) if cuts else 0.0
        cut = share / (1 - share * cuts) if busy else 1.0
        return [
            cut if is_cut else (last - first).total_seconds() / busy if busy else 1.0
            for first, last, is_cut in self._stretches
        ]

    def at(self, moment: datetime) -> float:
        """The place of a moment, 0 to 100."""
        moment = min(max(moment, self.start), self.end)
        number = max(0, bisect_right(self._starts, moment) - 1)
        first, last, _ = self._stretches[number]
        size = (last - first).total_seconds()
        share = min(1.0, (moment - first).total_seconds() / size) if size else 0.0
        return self._lefts[number] + self._widths[number] * share

    def bar(self, kind: str, first: datetime, last: datetime, title: str) -> Bar:
        left = self.at(first)
        return Bar(kind, round(left, 3), round(max(self.at(last) - left, 0.15), 3), title)

    def cuts(self) -> list[Cut]:
        return [
            Cut(round(self._lefts[number], 3), round(self._widths[number], 3), f"{length(first, last)} without work")
            for number, (first, last, is_cut) in enumerate(self._stretches)
            if is_cut
        ]

    def stretches(self) -> list[tuple[float, float, float, float]]:
        """The map from place to time: each stretch as in `Timeline.scale`."""
        return [
            (
                round(self._lefts[number] / 100, 6),
                round((self._lefts[number] + self._widths[number]) / 100, 6),
                (first - self.start).total_seconds(),
                (last - self.start).total_seconds(),
            )
            for number, (first, last, _) in enumerate(self._stretches)
        ]

    def ticks(self) -> list[Tick]:
        """Marks since the start, at round lengths, at least 9 % apart."""
        found: list[Tick] = []
        for number, (first, last, is_cut) in enumerate(self._stretches):
            seconds, width = (last - first).total_seconds(), self._widths[number]
            if is_cut or not seconds or width < 6:
                continue
            step = next((one for one in (*_NICE, *_LONGER) if one / seconds * width >= 9), _LONGER[-1])
            offset = (first - self.start).total_seconds()
            at = -(-offset // step) * step
            while at <= offset + seconds:
                left = self._lefts[number] + width * (at - offset) / seconds
                if not found or left - found[-1].left >= 7:
                    found.append(Tick(round(left, 3), f"+{span(int(at * 1_000_000))}" if at else "0"))
                at += step
        return [one for one in found if one.left <= 93]


class _Rows:
    """The rows of a flow in the order of its branches. Rows that are not on the page are not drawn."""

    def __init__(self, scale: Scale, opened: frozenset[str]) -> None:
        self._scale = scale
        self._opened = opened
        self.found: list[Row | _Lazy] = []

    def add(self, steps: Sequence[Step], level: int) -> None:
        dag = Dag(steps)
        # A stack of chains: one with a fan-out is left at it, and taken up again behind its branches.
        stack: list[tuple[Iterator[Step], Path, int, str]] = [(iter(dag.chains.get((), ())), (), level, "")]
        while stack:
            chain, path, level, number = stack[-1]
            step = next(chain, None)
            if step is None:
                stack.pop()
                continue
            self._step(step, level, number)
            stack[-1] = (chain, path, level, "")
            branches = dag.cohorts.get(step.step_id, [])
            if not branches:
                continue
            inner = min(level + 1, MAX_LEVEL)
            if len(branches) > FOLD_BRANCHES and step.step not in self._opened:
                inside = [one for first in branches for one in dag.branch((*path, first))]
                self.found.append(_Lazy(self._scale, step, inside=inside, branches=len(branches), level=inner))
                continue
            for place in range(len(branches) - 1, -1, -1):
                first = branches[place]
                words = f"{place + 1}/{len(branches)}"
                stack.append((iter(dag.chains.get((*path, first), ())), (*path, first), inner, words))

    def _step(self, step: Step, level: int, number: str) -> None:
        self.found.append(_Lazy(self._scale, step, level=level, number=number))
        if step.sub_history:
            self.add(step.sub_history, min(level + 1, MAX_LEVEL))


@dataclass(slots=True)
class _Lazy:
    """A row to be drawn: of a step, or of the branches of the fan-out at it."""

    scale: Scale
    step: Step
    level: int
    inside: list[Step] = field(default_factory=list)
    branches: int = 0
    number: str = ""

    def __call__(self) -> Row:
        return self._folded() if self.branches else self._single()

    def _single(self) -> Row:
        step = self.step
        bars = list(_bars(self.scale, step))
        note = ""
        if step.pause is not None:
            note = f"paused: {step.pause.kind}"
        elif step.due_at is not None and not step.over:
            note = status_word(step)
        label = f"{clip(step.task, LABEL - len(self.number))} {self.number}".strip()
        return Row(
            f"t{step.step}",
            label,
            shown_status(step),
            level=self.level,
            bars=bars,
            step=step.step,
            note=note,
            name=step.task,
        )

    def _folded(self) -> Row:
        counts = Counter(shown_status(one) for one in self.inside)
        words = " · ".join(f"{counts[one]:,} {WORDS[one]}" for one in PRECEDENCE if counts[one])
        first = min(one.created_at for one in self.inside)
        started = min((one.started_at for one in self.inside if one.started_at is not None), default=None)
        last = max(one.updated_at if one.over else self.scale.now for one in self.inside)
        status = next((one for one in PRECEDENCE if counts[one]), "created")
        bars = [self.scale.bar("queued", first, started or last, f"queued {length(first, started or last)}")]
        if started is not None:
            bars.append(self.scale.bar(status, started, last, f"{words}, {length(started, last)}"))
        tasks = " → ".join(dict.fromkeys(one.task for one in self.inside))
        label = f"{clip(tasks, LABEL - 8)} × {self.branches:,}"
        return Row(
            f"tf{self.step.step}",
            label,
            status,
            level=self.level,
            bars=bars,
            folded=self.step.step,
            note=f"{self.branches:,} branches: {words}",
        )


def _bars(scale: Scale, step: Step) -> Iterator[Bar]:
    at = step.created_at
    for one in step.attempts:
        if one.started_at is None or one.ended_at is None:
            continue
        yield from _gap(scale, at, one.started_at)
        words = f"attempt {one.attempt + 1}: {error_text(one.error)}, {length(one.started_at, one.ended_at)}"
        yield scale.bar("failed", one.started_at, one.ended_at, words)
        at = one.ended_at
    last = step.updated_at if step.over else scale.now
    due = step.queued_at
    if due is not None and due > at and (step.attempts or step.started_at is None or due <= step.started_at):
        kind = "before the next attempt" if step.attempts else "not due yet"  # it waits for its time, not for its turn
        yield scale.bar("waited completed", at, due, f"{kind}, {length(at, due)}")
        at = due
    if step.started_at is None or step.status == "pending":
        kind = "queued" if shown_status(step) != "interrupted" else "interrupted"
        yield scale.bar(kind, at, last, f"{status_word(step)} {length(at, last)}")
        return
    started = max(step.claimed_at or step.started_at, at)
    yield from _gap(scale, at, started)
    kind = shown_status(step)
    if step.kind in ("wait", "ask", "sleep") or step.sub_flow or step.sub_history:
        waited = "waiting" if step.over else "interrupted"
        yield scale.bar(f"waited {kind if step.over else waited}", started, last, f"waited {length(started, last)}")
    else:
        failure = error_text(step.failure)
        words = f"{'failed, handled' if step.handled_error else kind}, {length(started, last)}"
        yield scale.bar(
            "failed" if step.handled_error else kind, started, last, f"{words}: {failure}" if failure else words
        )


def _gap(scale: Scale, first: datetime, last: datetime) -> Iterator[Bar]:
    if last > first:
        yield scale.bar("queued", first, last, f"queued {length(first, last)}")
