"""Workflows in code: graphs made of the task functions themselves, so that the two cannot drift apart.

A `Workflow` is a `Graph`: it is registered, run, exported and drawn as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import code_checks
from dwarf_nats.workflow.code_facts import Called, CodeFacts, TaskFacts, describe_task, members_of
from dwarf_nats.workflow.code_parts import Exit, Joinable, Part, WorkflowNode
from dwarf_nats.workflow.code_policies import Policies, PolicyGraph
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.schema_clash import types_of
from dwarf_nats.workflow.typed_values import schema_of


class Workflow(PolicyGraph):
    """A graph made of task functions, joined with `>>`::

        order = Workflow("order", Order)
        order.start >> reserve >> charge >> ship >> END

    `state`: the type of the state, a dataclass, `TypedDict`, struct or pydantic model: its fields become the fields of the
    graph, and the parameters and results of the tasks are compared with it by `check`.
    """

    def __init__(self, name: str, state: type | None = None) -> None:
        super().__init__(name)
        self._begun: list[Exit] = []
        if state is not None:
            self._declare_state(state)

    @property
    def facts(self) -> CodeFacts:
        """The types of the state, of the tasks and of the results of other nodes."""
        return self._facts

    @property
    def start(self) -> Part:
        """The beginning: `order.start >> reserve` makes `reserve` the first node."""
        return Part(self, (), (Exit(""),))

    # -- nodes ---------------------------------------------------------------------------------------------------

    def task(
        self, task: Callable[..., Any] | str, name: str = "", *, url: str = "", **policies: Unpack[Policies]
    ) -> WorkflowNode:
        """Add a node for a task: a function registered with `@worker.task("url")`, or the url of a task elsewhere.

        `name`: of the node, by default the url. `url`: needed for a function that is registered for several. Raises
        `BadRequest` for a function that is no task, and for a name that is taken.

        Example: `paid = order.task(charge, retry=5, timeout=10)`
        """
        facts: TaskFacts | None = None
        if isinstance(task, str):
            url = task
        else:
            url = url or self._url_of(task)
            facts = describe_task(task)
        node = self._new(name or url, lambda name: self.add_task(name, url), policies)
        if facts is not None:
            self._facts.tasks[node.name] = facts
            self._declare_results(facts)
        return node

    def set(self, name: str, fields: Mapping[str, Any]) -> WorkflowNode:
        """Add a node that changes fields; the values are templates, `None` removes a field.

        Example: `order.set("sum", {"total": "=price * quantity"})`
        """
        return self._new(name, lambda name: self.add_set(name, fields), {})

    def request(
        self,
        name: str,
        subject: str,
        payload: Any = msgspec.UNSET,
        *,
        headers: Mapping[str, Any] | None = None,
        into: str = "",
        returns: Any = Any,
        **policies: Unpack[Policies],
    ) -> WorkflowNode:
        """Add a node that sends one NATS request; the reply, of type `returns`, goes into the field `into`.

        Example: `order.request("quote", "pricing.quote", {"order": "=order_id"})`
        """
        node = self._new(
            name, lambda name: self.add_request(name, subject, payload, headers=headers, into=into), policies
        )
        return self._returning(node, returns)

    def publish(
        self,
        name: str,
        subject: str,
        payload: Any = msgspec.UNSET,
        *,
        headers: Mapping[str, Any] | None = None,
        stream: bool = False,
        **policies: Unpack[Policies],
    ) -> WorkflowNode:
        """Add a node that publishes one message; with `stream` it completes once JetStream has stored it.

        Example: `order.publish("tell", "orders.shipped", {"order": "=order_id"})`
        """
        return self._new(
            name, lambda name: self.add_publish(name, subject, payload, headers=headers, stream=stream), policies
        )

    def workflow(
        self,
        name: str,
        workflow: str | Graph,
        input: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        into: str = "",
        returns: Any = Any,
        **policies: Unpack[Policies],
    ) -> WorkflowNode:
        """Add a node that runs another workflow; its final state, of type `returns`, goes into the field `into`.

        Of a `Workflow` with a state type, `check` compares the input with its fields.

        Example: `order.workflow("deliver", "shipping", {"order": "=order_id"})`
        """
        called = workflow if isinstance(workflow, str) else workflow.name
        node = self._new(name, lambda name: self.add_workflow(name, called, input, into=into), policies)
        if isinstance(workflow, Workflow) and workflow.facts.state is not None:
            self._facts.called[node.name] = Called(workflow.name, workflow.facts.state, workflow.facts.state_name)
        return self._returning(node, returns)

    def ask(
        self, name: str, payload: Any = None, *, timeout: float | None = None, into: str = "", returns: Any = Any
    ) -> WorkflowNode:
        """Add a node that waits until a person answers. `timeout` in seconds; then it fails with code 408.

        Example: `order.ask("approve", {"total": "=total"}, timeout=172_800)`
        """
        node = self._new(name, lambda name: self.add_ask(name, payload, timeout=timeout, into=into), {})
        return self._returning(node, returns)

    def wait(
        self,
        name: str,
        event: str,
        key: str = "",
        *,
        timeout: float | None = None,
        into: str = "",
        returns: Any = Any,
    ) -> WorkflowNode:
        """Add a node that waits for an event with this key. `timeout` in seconds; then it fails with code 408.

        Example: `order.wait("paid", "payment.settled", "=order_id")`
        """
        node = self._new(name, lambda name: self.add_wait(name, event, key, timeout=timeout, into=into), {})
        return self._returning(node, returns)

    def sleep(self, name: str, seconds: float | str | None = None, *, until: str | None = None) -> WorkflowNode:
        """Add a node that sleeps: seconds, an expression that gives milliseconds, or until a time in RFC 3339.

        Example: `order.sleep("later", 30)`
        """
        return self._new(name, lambda name: self.add_sleep(name, seconds, until=until), {})

    # -- joining -------------------------------------------------------------------------------------------------

    def part(self, thing: Joinable) -> Part:
        """The part that something stands for. Raises `BadRequest` for what is no part of this workflow."""
        if isinstance(thing, Part):
            if thing.graph is not self:
                raise BadRequest(f"{self._place}: {thing!r} belongs to another workflow: make a node of this one")
            return thing
        if isinstance(thing, str):
            return self._named(thing)
        if isinstance(thing, Sequence):
            parts = [self.part(one) for one in thing]
            return Part(
                self, [one for each in parts for one in each.entries], [one for each in parts for one in each.exits]
            )
        if callable(thing):
            return self._of_function(thing)
        raise BadRequest(
            f"{self._place}: {thing!r} cannot be joined: use a node, a task function, a list of them or END"
        )

    def join(self, left: Part, target: Joinable) -> Part:
        """Make the edges of `left >> target`, and return both as one part."""
        left, right = self.part(left), self.part(target)
        branches = isinstance(target, list | tuple) and len(right.entries) > 1
        if not left.exits:
            raise BadRequest(f"{self._place}: nothing can follow on {END}")
        if not right.entries:
            raise BadRequest(f"{self._place}: an edge needs a target: the start and an empty list are none")
        if branches and (left.forks or len(left.exits) > 1):
            raise BadRequest(f"{self._place}: a list of branches follows on a list: put a node between")
        for one in left.exits:
            one.used = True
            if one.source:
                self._lead(one, right.entries)
            elif branches or right.entries == (END,):
                raise BadRequest(f"{self._place}: a flow starts at one node: write {self.name}.start >> and the node")
            else:
                self.set_entry_point(right.entries[0])
        if left.forks and right.entries[0] != END:
            self.set_fan_in(right.entries[0])
        return Part(self, left.entries, right.exits, forks=branches or right.forks)

    def begun(self, exit_: Exit) -> Exit:
        """Note an edge that waits for its target, so that `check` can name one that never gets it."""
        self._begun.append(exit_)
        return exit_

    def _lead(self, exit_: Exit, targets: Sequence[str]) -> None:
        if exit_.exclusive and len(targets) > 1:
            raise BadRequest(f"{self._place}: {exit_.label} leads to one node: put a node before the branches")
        for target in targets:
            self.add_transition(exit_.source, target, **exit_.options)

    # -- checking ------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Raise `BadRequest` unless the graph is sound, and the types of its tasks fit: `Graph.validate`, then `check`.

        Example: `order.validate()`
        """
        super().validate()
        self.check()

    def check(self) -> None:
        """Raise `BadRequest` if a task takes what nothing before it gives, or what is of another type; with both places.

        The client does it before it sends the graph.

        Example: `order.check()`
        """
        for one in self._begun:
            if not one.used:
                raise BadRequest(f"{self._place}: {one.label} leads nowhere: write >> and its target after it")
        problem = next(code_checks.problems(self, self._facts), None)
        if problem is not None:
            raise BadRequest(f"{self._place}: {problem}")

    # -- making --------------------------------------------------------------------------------------------------

    def _new(self, name: str, add: Callable[[str], None], policies: Policies) -> WorkflowNode:
        if name in self.nodes:
            raise BadRequest(
                f"{self._place}: node {name!r} is there already: use the node that was returned, or name this one"
            )
        if name == END:
            raise BadRequest(f"{self._place}: {END} ends flows, and cannot be a node: choose another name")
        add(name)
        self._set_policies(name, policies)
        return WorkflowNode(self, name)

    def _of_function(self, function: Callable[..., Any]) -> Part:
        url = self._url_of(function)
        serving = [one.name for one in self.nodes.values() if one.url == url and one.action is None]
        if len(serving) > 1:
            raise BadRequest(f"{self._place}: the nodes {', '.join(serving)} have the task {url!r}: use one of them")
        return WorkflowNode(self, serving[0]) if serving else self.task(function)

    def _named(self, name: str) -> Part:
        if name == END:
            return Part(self, (END,), ())
        if name not in self.nodes:
            raise BadRequest(f"{self._place}: there is no node {name!r}: {closest(name, self.nodes)}")
        return WorkflowNode(self, name)

    def _returning(self, node: WorkflowNode, returns: Any) -> WorkflowNode:
        if returns is not Any:
            self._facts.returns[node.name] = schema_of(returns, written=True)
        return node

    def _declare_state(self, state: type) -> None:
        self._facts.state = members_of(schema_of(state))
        self._facts.state_name = getattr(state, "__qualname__", str(state))
        if self._facts.state is None:
            raise BadRequest(
                f"{self._place}: {self._facts.state_name} is no type of a state: use a dataclass, a TypedDict, a struct or"
                " a pydantic model"
            )
        for name, member in self._facts.state.items():
            default = member.schema.schema.get("default")
            self.declare_field(
                name,
                *types_of(member.schema),
                required=member.required,
                default=msgspec.UNSET if default is None else default,
                description=member.schema.schema.get("description", ""),
            )

    def _declare_results(self, facts: TaskFacts) -> None:
        """Declare what a task returns, if the state is typed: expressions may then read it."""
        if self._facts.state is not None:
            for name, schema in facts.gives.items():
                if name not in self.fields:
                    self.declare_field(name, *types_of(schema))
