"""Every subject of the service, in one place (wire: preamble and sections 1 to 5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from dwarf_nats.workflow.names import check_subject_name


@dataclass(frozen=True, slots=True)
class Subjects:
    """Builds subjects from three prefixes, so that several deployments can share one NATS account.

    Raises `BadRequest` if a prefix is not one or more tokens of `A-Z a-z 0-9 _ -`. Names handed to the methods must
    have been checked (`check_subject_name`) where they came in.
    """

    prefix: str = "dwarf"
    task_prefix: str = "task"
    graph_prefix: str = "graph"
    _own: tuple[bytes, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        check_subject_name(self.prefix, "subject prefix")
        check_subject_name(self.task_prefix, "task subject prefix")
        check_subject_name(self.graph_prefix, "graph subject prefix")
        own = (f"{one}.".encode() for one in (self.prefix, self.task_prefix, self.graph_prefix))
        object.__setattr__(self, "_own", tuple(own))

    def operation(self, name: str) -> str:
        """Where an operation such as `flow.create` is asked for."""
        return f"{self.prefix}.{name}"

    def health(self, replica: str = "") -> str:
        """Where all replicas are asked for their health, or one."""
        return f"{self.prefix}.health.{replica}" if replica else f"{self.prefix}.health"

    def task(self, url: str) -> str:
        """Where a task is served."""
        return f"{self.task_prefix}.{url}"

    def graph(self, workflow: str) -> str:
        """Where a graph is asked for."""
        return f"{self.graph_prefix}.{workflow}"

    def peer(self, signal: str) -> str:
        """Where replicas tell each other (`*` for all signals)."""
        return f"{self.prefix}.peer.{signal}"

    def stopped(self, notify: str) -> str:
        """Where the outcome of a flow started with `notify` is announced."""
        return f"{self.prefix}.stopped.{notify}"

    def event(self, status: str, workflow: str) -> str:
        """Where a change of a flow's status is announced."""
        return f"{self.prefix}.event.{status}.{workflow}"

    def owns(self, subject: bytes) -> bool:
        """Whether a subject is one of these, so that nobody but whom they are meant for should be answered there."""
        return subject.startswith(self._own)


def endpoint_name(operation: str) -> str:
    """The ADR-32 endpoint name of an operation: `flow.create_task` → `flow-create_task`."""
    return operation.replace(".", "-")
