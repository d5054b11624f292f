"""The policies of a workflow's nodes, and the urls of task functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.code_facts import CodeFacts, describe_task
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.names import closest
from dwarf_nats.workflow.nodes import PublishMessage, RetryPolicy, SendRequest, SetFields
from dwarf_nats.workflow.task_parameters import name_of, urls_of


class Policies(TypedDict, total=False):
    """The policies of a node: `timeout` and `queue_timeout` in seconds; `retry`: a policy, or the number of attempts.

    `compensate`: a task, by its function or url, or an action that undoes the node. `note`: shown in diagrams.
    """

    timeout: float
    queue_timeout: float
    retry: int | RetryPolicy
    compensate: str | Callable[..., Any] | SetFields | SendRequest | PublishMessage
    note: str


class PolicyGraph(Graph):
    """Base of `Workflow` with what tasks and policies need."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._facts = CodeFacts()

    @property
    def _place(self) -> str:
        return f"graph {self.name!r}"

    def _set_policies(self, name: str, policies: Policies) -> None:
        unknown = policies.keys() - Policies.__annotations__.keys()
        if unknown:
            wrong = min(unknown)
            raise TypeError(f"node {name!r} has no policy {wrong!r}: {closest(wrong, Policies.__annotations__)}")
        if "timeout" in policies:
            self.set_timeout(name, policies["timeout"])
        if "queue_timeout" in policies:
            self.set_queue_timeout(name, policies["queue_timeout"])
        if "retry" in policies:
            given = policies["retry"]
            policy = given if isinstance(given, RetryPolicy) else RetryPolicy(max_attempts=given)
            self.nodes[name].retry = self._retry(policy, f"node {name!r}")
        if "compensate" in policies:
            self._set_compensation(name, policies["compensate"])
        if "note" in policies:
            self.annotate(name, policies["note"])

    def _set_compensation(self, name: str, by: Any) -> None:
        if callable(by):
            self._facts.undoing[name] = describe_task(by)
            by = self._url_of(by)
        self.compensate(name, by)

    def _url_of(self, function: Callable[..., Any]) -> str:
        urls = urls_of(function)
        if len(urls) == 1:
            return urls[0]
        if not urls:
            raise BadRequest(
                f'{self._place}: {name_of(function)} is no task: write @worker.task("…") above it, or give its url'
            )
        raise BadRequest(
            f"{self._place}: {name_of(function)} serves the tasks {', '.join(urls)}: say which one with url="
        )
