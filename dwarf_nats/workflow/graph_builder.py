"""The builder of graphs: nodes, transitions, reducers and annotations (G1-G5).

The builder accepts everything. It keeps a list of the names and options it cannot use, the defects, for `Graph.validate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from dwarf_nats.workflow.names import END, closest
from dwarf_nats.workflow.nodes import Action, Compensation, Defaults, Field, NodeKind, RetryPolicy, url_of
from dwarf_nats.workflow.reducers import ReducerKind


@dataclass(slots=True)
class Node:
    """A position in a graph. `url` is the task it dispatches to; `fan_in` marks where a cohort converges (G4).

    A node with an `action` asks no task: the engine carries it out itself, and `url` is `nodes.url_of(action)`. What it brings
    back goes into the field `into`, by default the node's name. `timeout_ms`, `retry`: its policies (L1).
    `queue_timeout_ms`: how long a step of it may wait in the queue of a worker (K3).
    """

    name: str
    url: str
    fan_in: bool = False
    action: Action | None = None
    into: str = ""
    timeout_ms: int | None = None
    retry: RetryPolicy | None = None
    compensate: Compensation | None = None
    queue_timeout_ms: int | None = None

    @property
    def kind(self) -> NodeKind:
        """`task`, or the kind of its action."""
        return NodeKind.TASK if self.action is None else self.action.kind

    @property
    def field(self) -> str:
        """The state field that takes what the node brings back."""
        return self.into or self.name


@dataclass(slots=True, frozen=True)
class Transition:
    """An edge (G2). `when` is a CEL condition, empty for none; `for_each` a state field, empty for none."""

    source: str
    target: str
    when: str = ""
    switch: bool = False
    goto: bool = False
    for_each: str = ""
    as_: str = ""
    on_error: bool = False

    @property
    def branches(self) -> bool:
        """True for a plain, when or for_each edge: the kinds that can make a fan-out (G3)."""
        return not (self.switch or self.goto or self.on_error)

    @property
    def plain(self) -> bool:
        """True for an edge that is always taken when its source completes."""
        return self.branches and not self.when and not self.for_each


class GraphBuilder:
    """Nodes and transitions, in the order in which they were added. Read them freely; change them with the methods only."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: dict[str, Node] = {}
        self.transitions: list[Transition] = []
        self.reducers: dict[str, ReducerKind] = {}
        self.annotations: dict[str, str] = {}
        self.defaults = Defaults()
        self.pipelined = False
        """The next task is asked while the step before it is being written."""
        self.fields: dict[str, Field] = {}
        self._entry = ""
        self._leaving: dict[str, list[Transition]] = {}
        self._straight: dict[str, str] = {}
        self._stray_fan_ins: dict[str, None] = {}
        self._defects: dict[str, str] = {}
        self._fan_ins: dict[str, str] | None = None
        self._compensations: dict[str, Node] | None = None

    @property
    def entry_point(self) -> str:
        """The node at which a flow starts: the first one added, unless set (G1). Empty for a graph without nodes."""
        return self._entry or next(iter(self.nodes), "")

    # -- nodes ---------------------------------------------------------------------------------------------------

    def add_task(self, name: str, url: str | None = None) -> None:
        """Add a node that calls the task `url`, by default the task of the same name. A known name changes nothing.

        Example: `graph.add_task("charge", "billing.charge")`
        """
        if name == END:
            self._defects[END] = f"{END} is the terminal pseudo-node and cannot be a task: choose another name"
        elif name not in self.nodes:
            self.nodes[name] = Node(name, name if url is None else url, name in self._stray_fan_ins)
            self._stray_fan_ins.pop(name, None)

    def add_action(self, name: str, action: Action, *, into: str = "") -> None:
        """Add a node that the engine carries out itself. The same node again changes nothing."""
        known = self.nodes.get(name)
        if known is None:
            self.add_task(name, url_of(action))
            if name in self.nodes:
                self.nodes[name].action = action
                self.nodes[name].into = into
        elif (known.action, known.into) != (action, into):
            self._defects[f"action {name}"] = (
                f"node {name!r} is there already, and is another one: add it before the edges that name it, and once"
            )

    def set_entry_point(self, name: str) -> None:
        """Start flows at this node instead of the first one added.

        Example: `graph.set_entry_point("reserve")`
        """
        self._entry = self._known(name)

    def set_fan_in(self, name: str) -> None:
        """Mark the node at which a cohort converges (G4). The node may be added later.

        Example: `graph.set_fan_in("ship")`
        """
        known = self._known(name)
        if known in self.nodes:
            self.nodes[known].fan_in = True
            self._straight.clear()
        else:
            self._stray_fan_ins[name] = None

    def annotate(self, name: str, text: str) -> None:
        """Write `text` under the node in diagrams.

        Example: `graph.annotate("charge", "The bank")`
        """
        self.annotations[self._known(name)] = text

    def set_reducer(self, field: str, kind: ReducerKind | str) -> None:
        """Set how the values of a state field are merged at a fan-in, and in continue (S4).

        Example: `graph.set_reducer("lines", "append")`
        """
        key = f"reducer {field}"
        self._defects.pop(key, None)
        try:
            self.reducers[field] = ReducerKind(kind)
        except ValueError:
            self._defects[key] = (
                f"unknown reducer {str(kind)!r} for state field {field!r}: {closest(str(kind), list(ReducerKind))}"
            )

    # -- transitions ---------------------------------------------------------------------------------------------

    def add_transition(
        self,
        source: str,
        target: str,
        *,
        when: str = "",
        switch: bool = False,
        goto: bool = False,
        for_each: str = "",
        as_: str = "",
        on_error: bool = False,
    ) -> None:
        """Add an edge; without options it is plain. Unknown names become nodes; `END` ends the flow (G2).

        Example: `graph.add_transition("reserve", "charge")`
        """
        if for_each and not as_:
            as_ = "item"
        self._fan_ins = None
        self._straight.clear()
        edge = Transition(
            self._node(source),
            self._node(target),
            when=when,
            switch=switch,
            goto=goto,
            for_each=for_each,
            as_=as_,
            on_error=on_error,
        )
        self.transitions.append(edge)
        self._leaving.setdefault(edge.source, []).append(edge)

    def add_transition_when(self, source: str, target: str, when: str) -> None:
        """Add an edge that is taken if the CEL condition `when` holds on the merged state (G9).

        Example: `graph.add_when("reserve", "alarm", "total > 1000")`
        """
        if not when:
            self._defects[f"when {source} {target}"] = (
                f"edge {source!r} -> {target!r} has an empty condition: write one, or use add_transition"
            )
        self.add_transition(source, target, when=when)

    def add_transition_switch(self, source: str, target: str, when: str) -> None:
        """Add a switch branch: the first branch whose condition holds is taken; use `"true"` for the default branch.

        Example: `graph.add_switch("check", "approve", "total > 1000")`
        """
        self.add_transition(source, target, when=when, switch=True)

    def add_transition_goto(self, source: str, target: str, when: str = "") -> None:
        """Add an edge that is taken only if the task asks for it (X6), and `when` holds.

        Example: `graph.add_goto("check", "reserve")`
        """
        self.add_transition(source, target, goto=True, when=when)

    def add_transition_for_each(self, source: str, target: str, field: str, as_: str = "item", when: str = "") -> None:
        """Add an edge with one branch per element of the array in `field`; each has its element in field `as_` (X7).

        Example: `graph.add_for_each("reserve", "pack", "lines", as_="line")`
        """
        if not field:
            self._defects[f"for_each {source} {target}"] = (
                f"edge {source!r} -> {target!r} is for_each over no field: name the state field that holds the array"
            )
        self.add_transition(source, target, for_each=field, as_=as_, when=when)

    def add_transition_on_error(self, source: str, target: str, when: str = "") -> None:
        """Add an edge that is taken if the task fails and `when` holds; the error is in state field `onErr` (X4).

        Example: `graph.add_on_error("charge", "sorry", "onErr.code == 402")`
        """
        self.add_transition(source, target, on_error=True, when=when)

    add_when = add_transition_when
    add_switch = add_transition_switch
    add_goto = add_transition_goto
    add_for_each = add_transition_for_each
    add_on_error = add_transition_on_error

    def add_fan_out(self, source: str, *targets: str) -> None:
        """Add a plain edge from `source` to each target; two or more make it a fan-out (G3).

        Example: `graph.add_fan_out("reserve", "pack", "bill")`
        """
        for target in targets:
            self.add_transition(source, target)

    def add_chain(self, *names: str) -> None:
        """Add a plain edge from each name to the next.

        Example: `graph.add_chain("reserve", "charge", END)`
        """
        if names:
            self._node(names[0])
        for source, target in pairwise(names):
            self.add_transition(source, target)

    # -- reading -------------------------------------------------------------------------------------------------

    def leaving(self, name: str) -> list[Transition]:
        """The edges that leave a node, in the order in which they were added."""
        return self._leaving.get(name, [])

    def straight(self, name: str) -> str:
        """The target that always follows when a node completes, whatever the state, unless its task names another.

        Empty where conditions, branches or a fan-in have to be looked at.
        """
        target = self._straight.get(name)
        if target is None:
            target = self._straight[name] = self._find_straight(name)
        return target

    def _find_straight(self, name: str) -> str:
        taken = [edge for edge in self.leaving(name) if not (edge.goto or edge.on_error)]
        if len(taken) != 1 or not taken[0].plain:
            return ""
        target = taken[0].target
        return target if target == END or not self.nodes[target].fan_in else ""

    def is_fan_out(self, name: str) -> bool:
        """True for a fan-out source: a node with two or more plain or when edges, or any for_each edge (G3)."""
        branching = [edge for edge in self.leaving(name) if edge.branches]
        return len(branching) > 1 or any(edge.for_each for edge in branching)

    def find_node(self, name_or_url: str) -> Node | None:
        """The node of that name, or else the only node with that url (X6, O12); `None` if there is none or several."""
        node = self.nodes.get(name_or_url)
        if node is not None:
            return node
        serving = [node for node in self.nodes.values() if node.url == name_or_url]
        return serving[0] if len(serving) == 1 else None

    def defects(self) -> list[str]:
        """Calls of the builder that it could not carry out, a sentence each, for `validate`."""
        stray = [
            f"fan-in {name!r} is "
            + (f"{END}, where nothing converges: mark" if name == END else "no node of this graph: add it, or mark")
            + " the node at which the branches meet"
            for name in self._stray_fan_ins
        ]
        return [*self._defects.values(), *stray]

    # -- names ---------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> str:
        """The name of the node with this name or unambiguous url; the name itself if there is none."""
        node = self.find_node(name)
        return name if node is None else node.name

    def _node(self, name: str) -> str:
        known = self._known(name)
        if known != END and known not in self.nodes:
            self.add_task(known)
        return known
