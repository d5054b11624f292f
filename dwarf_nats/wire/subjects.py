"""All subjects of the service (wire sections 1 to 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import check_subject_name, is_subject_name, subject_problem

REPLICA = "dwarf_replica_inbox"
"""The token that marks the inbox of a replica, in any deployment and under any inbox prefix."""
MAX_REPLY = 1024
"""Longest reply subject, in bytes, that is accepted."""
_REPLICA = f".{REPLICA}.".encode()
_RESERVED = ("_INBOX", "_R_", "_GR_")
_GATEWAY = b"_GR_."
_ACK = b"$JS.ACK."


@dataclass(frozen=True, slots=True)
class Subjects:
    """Builds subjects from three prefixes, so that several deployments can share one NATS account.

    Raises `BadRequest` if a prefix is not one or more tokens of `A-Z a-z 0-9 _ -`, or if it is the prefix of inboxes. The
    caller must have checked the names it passes to the methods (`check_subject_name`).
    """

    prefix: str = "dwarf"
    task_prefix: str = "task"
    graph_prefix: str = "graph"
    _own: tuple[bytes, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        for what, one in self._prefixes():
            check_subject_name(one, what)
            if one.partition(".")[0] in _RESERVED:
                raise BadRequest(f"invalid {what} {one}: NATS replies have subjects that begin so; choose another one")
        own = (f"{one}.".encode() for _, one in self._prefixes())
        object.__setattr__(self, "_own", tuple(own))

    def _prefixes(self) -> tuple[tuple[str, str], ...]:
        return (
            ("subject prefix", self.prefix),
            ("task subject prefix", self.task_prefix),
            ("graph subject prefix", self.graph_prefix),
        )

    def check_apart(self, inbox: str) -> None:
        """Raise `BadRequest` if one prefix is below another, or `inbox`, a subject for replies, is below one of them."""
        for (what, one), (whose, other) in permutations(self._prefixes(), 2):
            if f"{one}.".startswith(f"{other}."):
                raise BadRequest(
                    f"the {what} {one} lies under the {whose} {other}: a message for one would be taken for one for the"
                    " other; choose prefixes that lie beside each other"
                )
        for what, one in self._prefixes():
            if inbox.startswith(f"{one}."):
                raise BadRequest(
                    f"the inbox prefix {inbox.rpartition('.')[0]} lies under the {what} {one}: choose one beside it,"
                    " such as _INBOX.replica"
                )

    def operation(self, name: str) -> str:
        """The subject of requests for an operation such as `flow.create`."""
        return f"{self.prefix}.{name}"

    def health(self, replica: str = "") -> str:
        """The subject of health requests to all replicas, or to one."""
        return f"{self.prefix}.health.{replica}" if replica else f"{self.prefix}.health"

    def task(self, url: str) -> str:
        """The subject of requests for a task."""
        return f"{self.task_prefix}.{url}"

    def graph(self, workflow: str) -> str:
        """The subject of requests for a graph."""
        return f"{self.graph_prefix}.{workflow}"

    def peer(self, signal: str) -> str:
        """The subject of a signal between replicas (`*` for all signals)."""
        return f"{self.prefix}.peer.{signal}"

    def stopped(self, notify: str) -> str:
        """The subject on which the outcome of a flow started with `notify` is announced."""
        return f"{self.prefix}.stopped.{notify}"

    def signal(self, event: str) -> str:
        """The subject on which an event is signalled (`>` for all events)."""
        return f"{self.prefix}.signal.{event}"

    def event(self, status: str, workflow: str) -> str:
        """The subject on which a change of a flow's status is announced."""
        return f"{self.prefix}.event.{status}.{workflow}"

    def rejected(self, source: str) -> str:
        """The subject on which messages are announced that a source could not use."""
        return f"{self.prefix}.rejected.{source}"

    def streams(self) -> str:
        """The beginning of the subjects of output, without the last dot (B8)."""
        return f"{self.prefix}.stream"

    def stream(self, flow_id: str, step_id: str = "*") -> str:
        """The subject of the output of a step; by default that of all steps of a root flow. Both ids are token-free."""
        return f"{self.prefix}.stream.{flow_id}.{step_id}"

    def all_of(self, subject: str) -> str:
        """The subjects of the same kind, as a wildcard: all tasks, all graphs, or all operations."""
        for one in (self.task_prefix, self.graph_prefix):
            if subject.startswith(f"{one}."):
                return f"{one}.>"
        return f"{subject.rpartition('.')[0] or subject}.>"

    def owns(self, subject: bytes) -> bool:
        """True for the subjects of the service: below its prefixes, or in the inbox of a replica."""
        return subject.startswith(self._own) or _REPLICA in subject

    def refuses_reply(self, reply: bytes) -> str:
        """The reason not to reply on this subject; empty if there is none.

        The service may publish on subjects on which the client may not. A reply on a subject of the service would be read as a
        task request, a signal or a task's reply in its name; subjects that begin with `$` belong to the server.
        """
        subject = reply
        if subject.startswith(_GATEWAY):  # between clusters: _GR_.<cluster>.<server>.<subject>
            subject = subject.split(b".", 3)[-1]
        if self.owns(subject):
            return "the reply subject is one of the service's own"
        if subject.startswith(b"$"):
            return "the reply subject begins with $, where NATS itself listens"
        if len(reply) > MAX_REPLY:
            return f"the reply subject is longer than {MAX_REPLY} bytes"
        tokens = subject.split(b".")
        if b"" in tokens or b"*" in tokens or b">" in tokens:
            return "the reply subject has a wildcard or an empty token"
        try:
            reply.decode()
        except UnicodeDecodeError:
            return "the reply subject is not UTF-8"
        return ""

    def refuses_message(self, subject: str, inbox: str = "") -> str:
        """The reason why no graph may send anything to a subject (N3, N4); empty if there is none.

        `inbox`: any reply subject of this connection. A message to a subject of the service would be taken for a request, a
        signal or a reply of the engine itself.
        """
        problem = subject_problem(subject)
        if problem:
            return problem
        for what, one in self._prefixes():
            if subject.startswith(f"{one}."):
                return f"it lies under the {what} {one} of this service"
        first = subject.partition(".")[0]
        if first in _RESERVED or self.owns(subject.encode()) or (inbox and subject.startswith(_above(inbox))):
            return "it is a subject for replies"
        return ""

    def is_private(self, subject: str) -> bool:
        """True for a valid private subject of a worker: an ordinary name that is no subject of the service."""
        return is_subject_name(subject) and not self.owns(subject.encode())


def _above(inbox: str) -> str:
    """The inbox prefix of a reply subject, with the dot."""
    return f"{inbox.rpartition('.')[0]}."


def replica_inbox(inbox: str) -> str:
    """Mark a new inbox as that of a replica: `_INBOX.abc` becomes `_INBOX.dwarf_replica_inbox.abc`."""
    prefix, _, unique = inbox.rpartition(".")
    return f"{prefix}.{REPLICA}.{unique}"


def is_acknowledgement(reply: bytes) -> bool:
    """True for the reply subject of a message that a JetStream consumer delivers, where nobody waits for a reply."""
    return reply.startswith(_ACK)


def is_of_another_account(reply: str) -> bool:
    """True for a reply subject that leads to another account, through the import of a service."""
    return reply.startswith("_R_.")


def endpoint_name(operation: str) -> str:
    """The ADR-32 endpoint name of an operation: `flow-create_task` for `flow.create_task`."""
    return operation.replace(".", "-")
