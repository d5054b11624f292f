"""The builder of nodes that the engine carries out itself, of policies and of declared fields (N1-N9, L1, G11)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow import node_json
from dwarf_nats.workflow.durability import Durability
from dwarf_nats.workflow.graph_builder import GraphBuilder, Node
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.nodes import (
    Action,
    AskPerson,
    Compensation,
    Defaults,
    Field,
    PublishMessage,
    RetryPolicy,
    RunWorkflow,
    SendRequest,
    SetFields,
    Sleep,
    WaitForEvent,
)
from dwarf_nats.workflow.state import check_json, encode_value

T = TypeVar("T")


class ActionBuilder(GraphBuilder):
    """A builder that also has nodes without a task. Values called templates are JSON values with `=` expressions in them.

    Values are copied when they are given. What no graph can hold is a defect, which `validate` reports.
    """

    def add_set(self, name: str, fields: Mapping[str, Any]) -> None:
        """Add a node that changes fields; `fields` is a template, `None` removes a field::

        graph.add_set("total", {"total": "=price * quantity", "draft": None})
        """
        self._add(name, SetFields(_members(fields)))

    def add_workflow(
        self,
        name: str,
        workflow: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        into: str = "",
    ) -> None:
        """Add a node that runs a workflow with this input, a template, and keeps its final state in the field `into`.

        Example: `graph.add_workflow("ship", "shipping", {"order": "=order_id"})`
        """
        self._add(name, RunWorkflow(workflow, _members(input)), into)

    def add_request(
        self,
        name: str,
        subject: str,
        payload: Any = msgspec.UNSET,
        *,
        headers: Mapping[str, Any] | None = None,
        into: str = "",
    ) -> None:
        """Add a node that sends one NATS request and keeps the reply in the field `into`. All values are templates.

        Example: `graph.add_request("quote", "pricing.quote", {"order": "=order_id"}, into="price")`
        """
        action = SendRequest(subject=subject, payload=payload, headers=_members(headers))
        self._add(name, action, into)

    def add_publish(
        self,
        name: str,
        subject: str,
        payload: Any = msgspec.UNSET,
        *,
        headers: Mapping[str, Any] | None = None,
        stream: bool = False,
    ) -> None:
        """Add a node that publishes one message; with `stream` it completes once JetStream has stored it.

        Example: `graph.add_publish("tell", "orders.shipped", {"order": "=order_id"}, stream=True)`
        """
        message = PublishMessage(subject=subject, payload=payload, headers=_members(headers), stream=stream)
        self._add(name, message)

    def add_wait(self, name: str, event: str, key: str = "", *, timeout: float | None = None, into: str = "") -> None:
        """Add a node that waits for an event with this key, a template. `timeout` in seconds; then it fails with 408.

        Example: `graph.add_wait("paid", "payment.settled", "=order_id", timeout=86_400)`
        """
        timeout_ms = self._ms(timeout, f"node {name!r}, wait.timeoutMs")
        self._add(name, WaitForEvent(event=event, key=key, timeout_ms=timeout_ms), into)

    def add_ask(self, name: str, payload: Any = None, *, timeout: float | None = None, into: str = "") -> None:
        """Add a node that pauses with this payload, a template, until somebody resumes it. `timeout` in seconds.

        Example: `graph.add_ask("approve", {"total": "=total"}, timeout=172_800)`
        """
        timeout_ms = self._ms(timeout, f"node {name!r}, ask.timeoutMs")
        self._add(name, AskPerson(payload=payload, timeout_ms=timeout_ms), into)

    def add_sleep(self, name: str, seconds: float | str | None = None, *, until: str | None = None) -> None:
        """Add a node that sleeps: seconds, or an expression that gives milliseconds; or until a time in RFC 3339.

        Example: `graph.add_sleep("later", 30)`
        """
        ms = seconds if isinstance(seconds, str) else self._ms(seconds, f"node {name!r}, sleep.ms")
        self._add(name, Sleep(ms=ms, until=until))

    # -- policies

    def set_timeout(self, name: str, seconds: float) -> None:
        """Bound one call of this node; it overrules the time budget of the flow and of the service.

        Example: `graph.set_timeout("charge", 10)`
        """
        self._policy_of(name).timeout_ms = self._ms(seconds, f"node {name!r}, timeoutMs")

    def set_queue_timeout(self, name: str, seconds: float) -> None:
        """Bound the time that a step of this node may wait in the queue of a worker before it is given to another (K3).

        Example: `graph.set_queue_timeout("charge", 5)`
        """
        self._policy_of(name).queue_timeout_ms = self._ms(seconds, f"node {name!r}, queueTimeoutMs")

    def set_retry(
        self,
        name: str,
        max_attempts: int | None = None,
        initial_delay: float = 0.1,
        *,
        multiplier: float = 2.0,
        max_delay: float = 60.0,
        give_up_after: float | None = None,
        jitter: float = 0.0,
        codes: Sequence[int] = (),
    ) -> None:
        """Retry the node after an error; delays in seconds. `codes`: only errors with one of these codes.

        Example: `graph.set_retry("charge", 5, 0.2, jitter=0.2)`
        """
        where = f"node {name!r}"
        policy = RetryPolicy(
            max_attempts=max_attempts,
            initial_delay_ms=self._ms(initial_delay, f"{where}, retry.initialDelayMs") or 0,
            multiplier=multiplier,
            max_delay_ms=self._ms(max_delay, f"{where}, retry.maxDelayMs") or 0,
            give_up_after_ms=self._ms(give_up_after, f"{where}, retry.giveUpAfterMs"),
            jitter=jitter,
            codes=tuple(codes),
        )
        self._policy_of(name).retry = self._retry(policy, where)

    def set_defaults(
        self, *, timeout: float | None = None, retry: RetryPolicy | None = None, queue_timeout: float | None = None
    ) -> None:
        """Set the policies of all nodes that have none of their own. `timeout` and `queue_timeout` in seconds.

        Example: `graph.set_defaults(timeout=10, retry=RetryPolicy(max_attempts=5))`
        """
        self.defaults = Defaults(
            timeout_ms=self._ms(timeout, "defaults.timeoutMs"),
            queue_timeout_ms=self._ms(queue_timeout, "defaults.queueTimeoutMs"),
            retry=self._retry(retry, "defaults"),
        )

    def set_durability(self, durability: Durability | str) -> None:
        """Set what must be in the database before the next task is asked: `"committed"` (the default) or `"pipelined"`.

        Raises `BadRequest` for any other text.

        Example: `graph.set_durability("pipelined")`
        """
        self.pipelined = Durability.of(durability) is Durability.PIPELINED

    def compensate(self, name: str, by: str | SetFields | SendRequest | PublishMessage) -> None:
        """Compensate completed steps of this node if their flow fails or is cancelled: by a task's url, or an action.

        Example: `graph.compensate("charge", "billing.refund")`
        """
        self._policy_of(name).compensate = self._sound(
            lambda: node_json.write_policies(None, None, _compensation(by)),
            node_json.read_compensation,
            f"node {name!r}",
        )

    def declare_field(
        self,
        name: str,
        *types: str,
        required: bool = False,
        default: Any = msgspec.UNSET,
        description: str = "",
        sealed: bool = False,
    ) -> None:
        """Declare a field of the state, with names of JSON Schema types.

        Example: `graph.declare_field("total", "integer", default=0)`
        """
        field = Field(types=types, required=required, default=default, description=description, sealed=sealed)
        declared = self._sound(
            lambda: {"fields": node_json.write_fields({name: field})}, node_json.read_fields, f"field {name!r}"
        )
        self.fields.update(declared or {name: Field()})

    def _add(self, name: str, action: Action, into: str = "") -> None:
        read = self._sound(lambda: node_json.write_action(action), _read_action, f"node {name!r}")
        self.add_action(name, read[0] if read else SetFields({}), into=into)

    def _retry(self, policy: RetryPolicy | None, where: str) -> RetryPolicy | None:
        if policy is None:
            return None
        return self._sound(lambda: {"retry": node_json.write_retry(policy)}, node_json.read_retry, where)

    def _sound(
        self, write: Callable[[], dict[str, Any]], read: Callable[[Mapping[str, Any], str], T | None], where: str
    ) -> T | None:
        """A value as it is once it was written to JSON and read; nothing, and a defect, for one that cannot be."""
        try:
            return read(check_json(encode_value(write(), "its value"), "its value"), where)
        except BadRequest as error:
            problem = error.message if error.message.startswith(where) else f"{where}: {error.message}"
        except (TypeError, ValueError, RecursionError) as error:
            problem = f"{where}: its value cannot be written as JSON: {error}"
        self._defects[where] = problem
        return None

    def _ms(self, seconds: float | None, where: str) -> int | None:
        if seconds is None:
            return None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
            self._defects[where] = f"{where}: it is {seconds!r}: write a number of seconds"
            return None
        return round(seconds * 1000)

    def _policy_of(self, name: str) -> Node:
        known = self.find_node(name)
        if known is None:
            self._defects[f"policy {name}"] = (
                f"a policy is set for {name!r}, which is no node: {closest(name, self.nodes)}"
            )
            return Node(name, name)
        return known


def _read_node(values: Mapping[str, Any], where: str) -> Node:
    return Node("", "", action=node_json.read_action(values, where))


def _read_action(values: Mapping[str, Any], where: str) -> list[Action]:
    action = node_json.read_action(values, where)
    return [] if action is None else [action]


def _members(given: Any) -> Any:
    """The object that was given; an empty one for nothing."""
    return {} if given is None else given


def _compensation(by: Any) -> Compensation:
    if isinstance(by, str):
        return Compensation(url=by)
    if isinstance(by, SetFields | SendRequest | PublishMessage):
        return Compensation(action=by)
    raise BadRequest(
        "compensate takes the url of a task, or a SetFields, SendRequest or PublishMessage,"
        f" not an object of type {type(by).__name__}"
    )
