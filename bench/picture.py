"""All engines as one picture: an SVG that follows the reader's light or dark theme. Pure; needs no library.

Three panels on logarithmic scales, since the engines are up to a hundred times apart: a bar would hide the smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from .engines import MARK, Row

_NAMES_WIDTH, _PANEL_WIDTH, _GAP = 340, 250, 34
_TOP, _ROW, _BOTTOM = 78, 24, 54
_RADIUS = 5
_STYLE = """
.paper { fill: #ffffff } .ink { fill: #1f2328 } .faint { fill: #59636e } .grid { stroke: #d1d9e0 }
.ours { fill: #0969da; stroke: #0969da } .theirs { fill: #818b98; stroke: #818b98 } .quoted { fill: #ffffff }
text { font: 13px system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif } .small { font-size: 11px }
.value { paint-order: stroke; stroke: #ffffff; stroke-width: 4px }
.strong { font-weight: 600 } .grid { stroke-width: 1 } circle { stroke-width: 2 }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117 } .ink { fill: #f0f6fc } .faint { fill: #9198a1 } .grid { stroke: #3d444d }
.ours { fill: #4493f8; stroke: #4493f8 } .theirs { fill: #9198a1; stroke: #9198a1 } .quoted { fill: #0d1117 }
.value { stroke: #0d1117 }
}
"""


class _Panel(NamedTuple):
    title: str
    hint: str
    of: Callable[[Row], float | None]
    said: str


_PANELS = (
    _Panel("Steps a second", "at its best; more is better", lambda row: row.steps_per_s, "{:,.0f}"),
    _Panel("A flow alone, milliseconds", "p50; less is better", lambda row: row.p50_ms, "{:,.1f}"),
    _Panel("CPU a step, microseconds", "all processes; less is better", lambda row: row.cpu_sum or None, "{:,.0f}"),
)


def svg(rows: Sequence[Row], steps: int, where: str) -> str:
    """The picture. `where`: the machine and the day."""
    width = _NAMES_WIDTH + len(_PANELS) * (_PANEL_WIDTH + _GAP)
    height = _TOP + len(rows) * _ROW + _BOTTOM
    title = f"Flows of {steps} steps in a straight line: {where}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
        _text(16, 26, title, "ink strong"),
    ]
    for number, row in enumerate(rows):
        lines.append(_text(16, _height_of(number) + 4, row.label.replace("`", ""), "ink strong" if row.ours else "ink"))
    for number, panel in enumerate(_PANELS):
        lines += _drawn(panel, rows, _NAMES_WIDTH + number * (_PANEL_WIDTH + _GAP))
    notes = "Logarithmic scales. "
    if any(row.quoted for row in rows):
        notes += f"{MARK} and hollow: quoted from another run. "
    lines.append(
        _text(
            16,
            height - 18,
            notes + "Each engine with its own durability; the conditions are in docs/benchmarks.md.",
            "faint",
            small=True,
        )
    )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _drawn(panel: _Panel, rows: Sequence[Row], left: int) -> Iterator[str]:
    values = [panel.of(row) for row in rows]
    known = [value for value in values if value]
    if not known:
        return
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    high = max(high, low + 1)
    room = _PANEL_WIDTH - 40  # for the value beside the last dot
    bottom = _TOP + len(rows) * _ROW

    def at(value: float) -> float:
        return left + room * (math.log10(value) - low) / (high - low)

    yield _text(left, 48, panel.title, "ink strong")
    yield _text(left, 64, panel.hint, "faint", small=True)
    for power in range(low, high + 1):
        x = at(10.0**power)
        yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield _text(x, bottom + 14, f"{10.0**power:,.10g}", "faint", small=True, middle=True)
    for number, (row, value) in enumerate(zip(rows, values, strict=True)):
        if value:
            y = _height_of(number)
            kind = ("ours" if row.ours else "theirs") + (" quoted" if row.quoted else "")
            yield f'<circle class="{kind}" cx="{at(value):.1f}" cy="{y}" r="{_RADIUS}"/>'
            ink = "ink strong value" if row.ours else "ink value"
            yield _text(at(value) + 10, y + 4, panel.said.format(value), ink, small=True)


def _height_of(number: int) -> int:
    return _TOP + number * _ROW + _ROW // 2


def _text(x: float, y: float, said: str, kind: str, small: bool = False, middle: bool = False) -> str:
    kind += " small" if small else ""
    anchor = ' text-anchor="middle"' if middle else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{anchor}>{escape(said)}</text>'
