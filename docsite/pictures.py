"""Draws the graphs of the examples as the console does, as pictures that stand alone: `python -m docsite.pictures`."""

from __future__ import annotations

from pathlib import Path

from dwarf_nats.console.views.graph import read_graph
from dwarf_nats.console.views.graph_svg import GraphDrawing
from dwarf_nats.console.views.layout import lay_out
from dwarf_nats.local.graph_book import graphs_of
from dwarf_nats.workflow.graph import Graph

ROOT = Path(__file__).resolve().parents[1]
PICTURES = (
    "nightly-report/graphs/report.yaml",
    "image-batch/graphs/thumbnails.yaml",
    "saga/graphs/trip.yaml",
    "agent/graphs/support.json",
)
"""The graphs below `examples/`; each picture stands in the folder of its example."""
ICONS = ROOT / "dwarf_nats" / "console" / "templates" / "flow_icons.svg"
STYLE = """
svg { --raised: #fff; --hover: #f1f1f4; --line: #e3e3e8; --strong: #8b8d98; --text: #1b1c21; --faint: #60636d; --bg: #f7f7f8;
  --each: #0b5cc4; --error: #bf2330; --goto: #6a45c0; color: var(--text); background: var(--bg); }
@media (prefers-color-scheme: dark) { svg { --raised: #1d1e24; --hover: #1e2026; --line: #282a31; --strong: #6b6f7b;
  --text: #e7e8ec; --faint: #9b9fab; --bg: #0f1013; --each: #6cb1ff; --error: #ff8086; --goto: #b9a0ff; } }
text { font: 12px system-ui, sans-serif; fill: var(--faint); }
text.name { font-weight: 600; font-size: 13px; fill: var(--text); }
text.cap { text-anchor: middle; } .box { fill: var(--raised); stroke: var(--strong); stroke-width: 1.2; }
.start .box, .end .box { fill: var(--hover); stroke: var(--line); } .kind { color: var(--faint); }
.i { fill: none; stroke: currentColor; stroke-width: 1.5; stroke-linecap: round; stroke-linejoin: round; }
.edge { fill: none; stroke: var(--text); stroke-width: 1.6; } .edge.error { stroke: var(--error); stroke-dasharray: 5 4; }
.edge.goto { stroke: var(--goto); stroke-dasharray: 2 3; } .edge.each { stroke: var(--each); stroke-width: 2.4; }
.head path { fill: var(--strong); fill: context-stroke; } .label rect { fill: var(--bg); }
.label text { font-size: 11px; text-anchor: middle; } .label.error text { fill: var(--error); }
.label.each text { fill: var(--each); } .label.goto text { fill: var(--goto); }
"""


def picture(graph: Graph) -> str:
    """Draw a graph as an SVG file."""
    drawn = read_graph(graph.to_values())
    drawing = GraphDrawing(drawn, lay_out(drawn))
    svg = str(drawing.svg(drawing.plain()))
    tag, rest = svg.split(">", 1)
    icons = ICONS.read_text(encoding="utf-8").strip()
    return f'{tag} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>{icons}{rest}\n'


def main() -> None:
    """Write all pictures."""
    for place in PICTURES:
        path = ROOT / "examples" / place
        (graph,) = graphs_of(path)
        target = path.parents[1] / path.with_suffix(".svg").name
        target.write_text(picture(graph), encoding="utf-8")
        print(target.relative_to(ROOT))


if __name__ == "__main__":
    main()
