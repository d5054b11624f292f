"""The builder of nodes that the engine carries out itself, of policies and of declared fields (N1-N9, L1, G11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dwarf_nats.workflow.graph_builder import GraphBuilder, Node
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.nodes import (
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


class ActionBuilder(GraphBuilder):
    """A builder that also has nodes without a task. Values called templates are JSON values with `=` expressions in them."""

    def add_set(self, name: str, fields: Mapping[str, Any]) -> None:
        """Add a node that changes fields; `fields` is a template, `None` removes a field::

        graph.add_set("total", {"total": "=price * quantity", "draft": None})
        """
        self.add_action(name, SetFields(dict(fields)))

    def add_workflow(
        self,
        name: str,
        workflow: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        into: str = "",
    ) -> None:
        """Add a node that runs a workflow with this input, a template, and keeps its final state in the field `into`."""
        self.add_action(name, RunWorkflow(workflow, dict(input or {})), into=into)

    def add_request(
        self,
        name: str,
        subject: str,
        payload: Any = msgspec.UNSET,
        *,
        headers: Mapping[str, Any] | None = None,
        into: str = "",
    ) -> None:
        """Add a node that sends one NATS request and keeps the reply in the field `into`. All values are templates."""
        self.add_action(name, SendRequest(subject=subject, payload=payload, headers=dict(headers or {})), into=into)

    def add_publish(
        self,
        name: str,
        subject: str,
        payload: Any = msgspec.UNSET,
        *,
        headers: Mapping[str, Any] | None = None,
        stream: bool = False,
    ) -> None:
        """Add a node that publishes one message; with `stream` it completes once JetStream has stored it."""
        message = PublishMessage(subject=subject, payload=payload, headers=dict(headers or {}), stream=stream)
        self.add_action(name, message)

    def add_wait(self, name: str, event: str, key: str = "", *, timeout: float | None = None, into: str = "") -> None:
        """Add a node that waits for an event with this key, a template. `timeout` in seconds; then it fails with 408."""
        self.add_action(name, WaitForEvent(event=event, key=key, timeout_ms=_ms(timeout)), into=into)

    def add_ask(self, name: str, payload: Any = None, *, timeout: float | None = None, into: str = "") -> None:
        """Add a node that pauses with this payload, a template, until somebody resumes it. `timeout` in seconds."""
        self.add_action(name, AskPerson(payload=payload, timeout_ms=_ms(timeout)), into=into)

    def add_sleep(self, name: str, seconds: float | str | None = None, *, until: str | None = None) -> None:
        """Add a node that sleeps: seconds, or an expression that gives milliseconds; or until a time in RFC 3339."""
        ms = seconds if isinstance(seconds, str) else _ms(seconds)
        self.add_action(name, Sleep(ms=ms, until=until))

    # -- policies

    def set_timeout(self, name: str, seconds: float) -> None:
        """Bound one call of this node; it overrules the time budget of the flow and of the service."""
        self._policy_of(name).timeout_ms = _ms(seconds)

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
        """Retry the node after an error; delays in seconds. `codes`: only errors with one of these codes."""
        self._policy_of(name).retry = RetryPolicy(
            max_attempts=max_attempts,
            initial_delay_ms=round(initial_delay * 1000),
            multiplier=multiplier,
            max_delay_ms=round(max_delay * 1000),
            give_up_after_ms=_ms(give_up_after),
            jitter=jitter,
            codes=tuple(codes),
        )

    def set_defaults(self, *, timeout: float | None = None, retry: RetryPolicy | None = None) -> None:
        """Set the policies of all nodes that have none of their own. `timeout` in seconds."""
        self.defaults = Defaults(timeout_ms=_ms(timeout), retry=retry)

    def compensate(self, name: str, by: str | SetFields | SendRequest | PublishMessage) -> None:
        """Compensate completed steps of this node if their flow fails or is cancelled: by a task's url, or an action."""
        compensation = Compensation(url=by) if isinstance(by, str) else Compensation(action=by)
        self._policy_of(name).compensate = compensation

    def declare_field(
        self,
        name: str,
        *types: str,
        required: bool = False,
        default: Any = msgspec.UNSET,
        description: str = "",
        sealed: bool = False,
    ) -> None:
        """Declare a field of the state, with names of JSON Schema types."""
        self.fields[name] = Field(
            types=types, required=required, default=default, description=description, sealed=sealed
        )

    def _policy_of(self, name: str) -> Node:
        known = self.find_node(name)
        if known is None:
            self._defects[f"policy {name}"] = (
                f"a policy is set for {name!r}, which is no node: {closest(name, self.nodes)}"
            )
            return Node(name, name)
        return known


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
