"""Every subject of the service, in one place (wire sections 1 to 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.names import check_subject_name, is_subject_name

REPLICA = "dwarf_replica_inbox"
"""The token by which the inbox of a replica, of any deployment and under any inbox prefix, is recognised."""
MAX_REPLY = 1024
"""Bytes of a reply subject; a longer one is refused."""
_REPLICA = f".{REPLICA}.".encode()
_RESERVED = ("_INBOX", "_R_", "_GR_")
_GATEWAY = b"_GR_."
_ACK = b"$JS.ACK."


@dataclass(frozen=True, slots=True)
class Subjects:
    """Builds subjects from three prefixes, so that several deployments can share one NATS account.

    Raises `BadRequest` if a prefix is not one or more tokens of `A-Z a-z 0-9 _ -`, or if it is that of
    inboxes. Names handed to the methods must have been checked (`check_subject_name`) where they came in.
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
        """Raise `BadRequest` if one prefix lies under another, or `inbox`, a subject for replies, under one of them."""
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

    def all_of(self, subject: str) -> str:
        """The subjects of the same kind, as a wildcard: all tasks, all graphs, all operations beside this one."""
        for one in (self.task_prefix, self.graph_prefix):
            if subject.startswith(f"{one}."):
                return f"{one}.>"
        return f"{subject.rpartition('.')[0] or subject}.>"

    def owns(self, subject: bytes) -> bool:
        """Whether a subject is one of the service's own: under its prefixes, or in the inbox of a replica."""
        return subject.startswith(self._own) or _REPLICA in subject

    def refuses_reply(self, reply: bytes) -> str:
        """Why nobody is answered on this reply subject; empty if it is in order.

        The service may publish where whoever asks perhaps may not. An answer on a subject of its own would be read as a task
        request, a signal or a task's reply in its name; one that begins with `$` is the server's.
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

    def is_private(self, subject: str) -> bool:
        """Whether a worker may be asked there what it runs: an ordinary name that is none of the service's own."""
        return is_subject_name(subject) and not self.owns(subject.encode())


def replica_inbox(inbox: str) -> str:
    """The inbox of a replica, made of a fresh one: `_INBOX.abc` → `_INBOX.dwarf_replica_inbox.abc`."""
    prefix, _, unique = inbox.rpartition(".")
    return f"{prefix}.{REPLICA}.{unique}"


def is_acknowledgement(reply: bytes) -> bool:
    """Whether a reply subject is that of a message a JetStream consumer delivers: nobody waits there for an answer."""
    return reply.startswith(_ACK)


def is_of_another_account(reply: str) -> bool:
    """Whether a reply subject leads to another account, by an import of a service."""
    return reply.startswith("_R_.")


def endpoint_name(operation: str) -> str:
    """The ADR-32 endpoint name of an operation: `flow.create_task` → `flow-create_task`."""
    return operation.replace(".", "-")
