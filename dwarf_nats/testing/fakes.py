"""Fakes for tasks and services, and records of what they were asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from dwarf_nats.errors import BadRequest
from dwarf_nats.workflow.output import JSON, TEXT
from dwarf_nats.workflow.state import Raw, decode_value, to_values

if TYPE_CHECKING:
    from dwarf_nats.workflow.answer import TaskCall
    from dwarf_nats.workflow.output import Output

Raised: TypeAlias = "BaseException | type[BaseException]"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One execution of a task. `attempt` counts retries from 0; `step_id` is the same in every execution of a step."""

    url: str
    task: str
    workflow: str
    step_id: str
    attempt: int
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """One request to a service, or one message that was published. `stream`: a stream was to store the message."""

    subject: str
    payload: Any
    headers: Mapping[str, str]
    attempt: int = 0
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Emitted:
    """A piece of output that a task has emitted while it ran."""

    by: TaskRecord
    output: Output

    @property
    def data(self) -> Any:
        """The text, the bytes or the JSON value."""
        if self.output.content_type == TEXT:
            return self.output.body.decode()
        return decode_value(Raw(self.output.body)) if self.output.content_type == JSON else self.output.body


@dataclass(slots=True, kw_only=True, eq=False)
class Fake:
    """Stands in for a task or a service. `calls`: what it was asked, in order."""

    name: str
    returns: Any = None
    raises: Raised | None = None
    effect: Callable[..., Any] | None = None
    """Answers in its place."""
    values: Iterator[Any] | None = None
    """One for each call: returned, or raised if it is an exception."""
    calls: list[Any] = field(default_factory=list)

    @property
    def called(self) -> bool:
        """True if it was asked at all."""
        return bool(self.calls)

    @property
    def call_count(self) -> int:
        """The number of times it was asked."""
        return len(self.calls)

    @property
    def function(self) -> Callable[..., Any]:
        """The function that answers."""
        return self._answer if self.effect is None else self.effect

    async def _answer(self) -> Any:
        if self.raises is not None:
            raise self.raises
        if self.values is None:
            return self.returns
        try:
            value = next(self.values)
        except StopIteration:
            raise AssertionError(
                f"the fake of {self.name} was asked {self.call_count} times, and its side_effect has no more values"
            ) from None
        if isinstance(value, BaseException) or (isinstance(value, type) and issubclass(value, BaseException)):
            raise value
        return value


def new_fake(name: str, returns: Any, raises: Raised | None, side_effect: Any) -> Fake:
    """Make a fake. Raises `BadRequest` unless at most one of the three is given, or for a `side_effect` of another type."""
    if sum(given is not None for given in (returns, raises, side_effect)) > 1:
        raise BadRequest(f"the fake of {name} takes one of returns, raises and side_effect")
    if callable(side_effect):
        return Fake(name=name, effect=side_effect)
    if side_effect is None:
        return Fake(name=name, returns=returns, raises=raises)
    if not isinstance(side_effect, Iterable):
        raise BadRequest(f"side_effect of the fake of {name} is a function, or an iterable of values and exceptions")
    return Fake(name=name, values=iter(side_effect))


def record_of(call: TaskCall) -> TaskRecord:
    """Make the record of a call."""
    return TaskRecord(
        url=call.url,
        task=call.task,
        workflow=call.workflow,
        step_id=call.step_key.rpartition("-")[0],
        attempt=call.attempt,
        state=to_values(call.state),
    )
