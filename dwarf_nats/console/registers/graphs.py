"""The registry of graphs."""

from __future__ import annotations

from urllib.parse import quote

from .register import Action, Column, Register

EXAMPLE = """\
name: order
entryPoint: reserve
tasks:
  - name: reserve
    url: stock.reserve
  - name: charge
    url: billing.charge
transitions:
  - {from: reserve, to: charge}
  - {from: charge, to: END}
"""

GRAPHS = Register(
    noun="graph",
    plural="graphs",
    title="Registered graphs",
    about="Flows that are created from now on run the graph that is registered under their workflow's name.",
    columns=(Column("Digest", "digest", "code"), Column("Changed", "updatedAt", "time")),
    facts=(
        Column("Begins at", "entryPoint", "code"),
        Column("Nodes", lambda graph: len(graph.get("tasks") or ()), "number"),
        Column("Transitions", lambda graph: len(graph.get("transitions") or ()), "number"),
    ),
    actions=(
        Action(
            verb="mermaid",
            label="Mermaid",
            text="The graph as the text of a Mermaid diagram, for documents.",
            reads=True,
        ),
    ),
    example=EXAMPLE,
    command="dwarf-nats graph put order.yaml",
    nav=False,
    section="workflows",
    links=lambda graph: (("The workflow", f"/workflow/{quote(str(graph.get('name', '')), safe='')}"),),
    delete_text="No flow can be created by its name any more. Flows that are there keep the graph they were created with.",
)
