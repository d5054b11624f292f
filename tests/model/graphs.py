"""Graphs that are valid by construction: sequences of blocks, a block being a node and what leaves it, blocks within blocks.

What leaves a block is *loose* until the next block begins: an edge with its source and kind, and no target yet. Every fan-out
gets its own fan-in, every loop goes back within its own sequence, every detour comes out where its block does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import SetFields
from tests.model.behaviours import SIGNALLED
from tests.model.choices import Choices

Loose = list[tuple[str, dict[str, Any]]]

FIELDS = {
    "n": "number",
    "m": "number",
    "l": "array",
    "u": "array",
    "o": "object",
    "f": "boolean",
    "s": "string",
    "a": "any",
}
"""The fields of a state, and what is usually in them."""
ARRAYS = ["xs", "ys"]
"""The fields for_each goes over."""
AS = ["item", "item", "it", "n", "xs", "a"]
"""Names for elements; some are fields already."""
KINDS = {
    "number": ["add", "add", "min", "max"],
    "array": ["append", "union"],
    "object": ["merge"],
    "boolean": ["and", "or"],
    "string": ["concat"],
    "any": ["append", "replace", "merge"],
}
CONDITIONS = [
    "true",
    "n != 7",
    "size(state) > 1",
    "!(s == 'none')",
    "n > 0",
    "n > 1",
    "n == m",
    "f == true",
    "f != true",
    "a == null",
    "a != null",
    "s == 'x'",
    "item == 1",
    "item > 0",
    "itemIndex == 0",
    "it == 1",
    "o.k > 1",
    "size(l) > 1",
    "state.m < 2",
    "n",
    "false",
]
"""Some cannot be evaluated on every state, one yields no boolean (G9)."""
ERROR_CONDITIONS = [
    "onErr.code == 402",
    "onErr.code == 402",
    "n > 0",
    "onErr.task == 'none'",
    "onErr.message == 'boom 2'",
]


NUMBERS = ["=n", "=n + 1", "=m", "=size(state)", 1, 2.5, "=itemIndex", "=n * 2.0", None]
TEMPLATES: dict[str, list[Any]] = {
    "number": NUMBERS,
    "array": ["=l", "=[n, a]", ["=item", 1], "=xs", None],
    "object": [{"k": "=n"}, "=o", {"j": ["=s"], "k": None}, "=onErr"],
    "boolean": ["=f", "=n > 0", True],
    "string": ["=s", "='x' + s", "==x", "y"],
    "any": ["=a", "=state.a", "=o.k", 1, {"s": "=s"}, "=it"],
}
"""Values of templates; some have none on every state."""


class Sketch:
    """A graph in the making. `children`: workflows that its nodes may call; `acting`: percent of nodes that ask no
    task, `undoing`: of those that are compensated."""

    def __init__(
        self,
        choices: Choices,
        name: str,
        prefix: str,
        nodes: int,
        *,
        children: Sequence[str] = (),
        acting: int = 0,
        undoing: int = 0,
    ) -> None:
        self.graph = Graph(name)
        self.loops: dict[str, str] = {}
        """Nodes that go back, and where to."""
        self._tape = choices
        self._prefix = prefix
        self._left = nodes
        self._children = list(children)
        self._acting = acting
        self._undoing = undoing

    def finish(self, depth: int) -> Graph:
        _, loose = self._sequence(depth, inside=False)
        self._tie(loose, END)
        for field, kind in FIELDS.items():
            if self._tape.odds(50):
                self.graph.set_reducer(field, self._tape.pick(KINDS[kind]))
        if self._tape.odds(15):
            self.graph.set_reducer("xs", self._tape.pick(["append", "union"]))
        if self._tape.odds(40):
            self.graph.set_durability("pipelined")
        return self.graph

    # -- sequences and blocks

    def _sequence(self, depth: int, *, inside: bool) -> tuple[str, Loose]:
        """One to four blocks, and perhaps a node that goes back to one of them; its entry, and what is loose."""
        blocks = self._tape.pick([1, 2, 3, 4] if not inside else [1, 1, 2]) if self._left > 2 and depth >= 0 else 1
        entry, loose = self._block(depth, inside=inside)
        entries = [entry]
        for _ in range(blocks - 1):
            if self._left <= 0:
                break
            following, out = self._block(depth, inside=inside)
            self._tie(loose, following)
            entries.append(following)
            loose = out
        if self._left > 0 and self._tape.odds(25):
            tail = self._node()
            self._tie(loose, tail)
            target = self._tape.pick([*entries, tail])
            self.graph.add_goto(tail, target)
            self.loops[tail] = target
            loose = [(tail, {})]
        return entry, loose

    def _block(self, depth: int, *, inside: bool) -> tuple[str, Loose]:
        name = self._node()
        return name, self._leave(name, depth, inside=inside)

    def _node(self) -> str:
        self._left -= 1
        name = f"{self._prefix}{len(self.graph.nodes)}"
        url = self._tape.pick([name, name, f"task.{name}", "task.shared", "task.common"])
        if self._acting and self._tape.odds(self._acting):
            self._act(name)
        else:
            self.graph.add_task(name, url)
        if self._acting and self._tape.odds(15):
            codes = self._tape.pick([(), (), (402,), (402, 422)])
            self.graph.set_retry(name, self._tape.pick([1, 2, 3]), self._tape.pick([0, 0.001]), jitter=0.5, codes=codes)
        if self._undoing and self._tape.odds(self._undoing):
            self.graph.compensate(name, self._compensation(name))
        return name

    def _compensation(self, name: str) -> str | SetFields:
        """A task, or fields that are set; what a template has is there on every state."""
        fields = SetFields({"undone": "=changes", self._tape.pick([*FIELDS]): "=state"})
        options: list[str | SetFields] = [f"undo.{name}", "task.shared", fields]
        return self._tape.pick(options)

    def _act(self, name: str) -> None:
        """A node that asks no task (N1, N2, N5-N7)."""
        into = self._tape.pick(["", "a", "o", "n"])
        match self._tape.pick(["set", "set", "set", "sleep", "ask", "wait", "workflow", "workflow"]):
            case "set":
                self.graph.add_set(name, {field: self._template(field) for field in self._tape.some([*FIELDS], 0, 3)})
            case "sleep":
                self.graph.add_sleep(name, self._tape.pick([0, 0.001, "=1", "=itemIndex", "=s"]))
            case "ask":
                self.graph.add_ask(name, self._template("a"), into=into)
            case "wait":
                key = self._tape.pick(["", "=string(n)", "k"])
                if self._tape.odds(65):
                    self.graph.add_wait(name, SIGNALLED, key, timeout=self._tape.pick([None, 600.0]), into=into)
                else:
                    self.graph.add_wait(name, "never", key, timeout=0.001, into=into)
            case _:
                workflow = self._tape.pick([*self._children, *self._children, *self._children, "nowhere"])
                fields = self._tape.some([*FIELDS, *ARRAYS], 0, 3)
                self.graph.add_workflow(name, workflow, {one: f"={one}" for one in fields}, into=into)

    def _template(self, field: str) -> Any:
        return self._tape.pick(TEMPLATES[FIELDS[field]])

    def _tie(self, loose: Loose, target: str) -> None:
        for source, kind in loose:
            self.graph.add_transition(source, target, **kind)

    # -- what leaves a node

    def _leave(self, name: str, depth: int, *, inside: bool) -> Loose:
        deep = depth > 0 and self._left > 2
        kinds = ["plain"] * 12 + ["when"] + (["switch"] * 6 + ["fan out"] * 12 + ["for each"] * 12) * deep
        match self._tape.pick(kinds):
            case "plain":
                loose: Loose = [(name, {})]
            case "when":
                loose = [(name, {"when": self._condition()})]
            case "switch":
                loose = self._switch(name, depth, inside=inside)
            case "fan out":
                loose = self._fan_out(name, depth, inside=inside, each=False)
            case _:
                loose = self._fan_out(name, depth, inside=inside, each=True)
        return loose + self._detours(name, depth, inside=inside)

    def _switch(self, name: str, depth: int, *, inside: bool) -> Loose:
        count = self._tape.number(1, 3)
        conditions = [self._condition() for _ in range(count)]
        if self._tape.odds(95):
            conditions[-1] = "true"
        loose: Loose = []
        for at, condition in enumerate(conditions):
            edge: dict[str, Any] = {"switch": True, "when": condition}
            if at and self._left > 0 and self._tape.odds(5):
                self.graph.add_transition(name, self._node(), **edge)  # where nothing follows
            else:
                loose += self._path(name, edge, depth - 1, inside=inside, straight=40)
        return loose

    def _fan_out(self, name: str, depth: int, *, inside: bool, each: bool) -> Loose:
        """Branches, their fan-in, and what leaves that."""
        count = self._tape.number(1, 2) if each else self._tape.number(2, 3)
        loose: Loose = []
        for at in range(count):
            if each and (at == 0 or self._tape.odds(30)):
                edge: dict[str, Any] = {
                    "for_each": self._tape.pick(ARRAYS),
                    "as_": self._tape.pick(AS),
                }
                if self._tape.odds(15):
                    edge["when"] = self._condition()
            else:
                edge = {"when": self._condition()} if self._tape.odds(40) else {}
            loose += self._path(name, edge, depth - 1, inside=True, straight=8)
        fan_in = self._node()
        self._tie(loose, fan_in)
        self.graph.set_fan_in(fan_in)
        if self._tape.odds(10):
            self.graph.add_goto(name, fan_in)
        if self._tape.odds(10):
            self.graph.add_on_error(name, fan_in)
        return self._leave(fan_in, depth - 1, inside=inside)

    def _detours(self, name: str, depth: int, *, inside: bool) -> Loose:
        """Error edges and gotos out of a node, which come out where its block does, or end the flow."""
        loose: Loose = []
        if self._tape.odds(25):
            for _ in range(self._tape.pick([1, 1, 2])):
                edge: dict[str, Any] = {"on_error": True}
                if self._tape.odds(50):
                    edge["when"] = self._tape.pick(ERROR_CONDITIONS)
                loose += self._detour(name, edge, depth, inside=inside)
        if self._tape.odds(15):
            edge = {"goto": True}
            if self._tape.odds(40):
                edge["when"] = self._condition()
            loose += self._detour(name, edge, depth, inside=inside)
        return loose

    def _detour(self, name: str, edge: dict[str, Any], depth: int, *, inside: bool) -> Loose:
        if not inside and self._tape.odds(10):
            self.graph.add_transition(name, END, **edge)
            return []
        return self._path(name, edge, min(depth - 2, 0), inside=inside, straight=60)

    def _path(self, source: str, edge: dict[str, Any], depth: int, *, inside: bool, straight: int) -> Loose:
        """Blocks behind an edge; or the edge itself, straight to whatever comes after."""
        if self._left <= 0 or self._tape.odds(straight):
            return [(source, edge)]
        entry, loose = self._sequence(depth, inside=inside)
        self.graph.add_transition(source, entry, **edge)
        return loose

    def _condition(self) -> str:
        return str(self._tape.pick(CONDITIONS))


CHOICES = 400
"""As many as a graph may take; then it goes on plain."""


def sketch(
    choices: Choices,
    name: str = "root",
    prefix: str = "n",
    nodes: int = 14,
    depth: int = 3,
    *,
    children: Sequence[str] = (),
    acting: int = 0,
    undoing: int = 0,
) -> Sketch:
    """A graph of about so many nodes; fan-outs and switches nest so deep. The rest: see `Sketch`."""
    made = Sketch(choices.cut(CHOICES), name, prefix, nodes, children=children, acting=acting, undoing=undoing)
    made.finish(depth)
    return made


def graphs() -> st.SearchStrategy[Graph]:
    """Graphs that pass `validate`."""
    return st.binary(min_size=2 * CHOICES, max_size=2 * CHOICES).map(lambda text: sketch(Choices(text)).graph)
