"""The model's flow API: one execution of one step, and what its task answered."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dwarf_nats.workflow.tags import TagChanges
from dwarf_nats.workflow.task_error import SubgraphError, TaskError
from tests.model import values
from tests.model.behaviours import Behaviour, Note, play
from tests.model.values import Error, State

NOTHING = object()
"""No resume, no child. Null would be data."""


@dataclass
class Retry:
    """A wish to run again. `late`: it would be due after `give_up_after`."""

    max_attempts: int | None
    late: bool

    def granted(self, attempt: int) -> bool:
        """X5: `max_attempts` counts executions, the first included."""
        return not self.late and (self.max_attempts is None or attempt + 1 < self.max_attempts)


@dataclass
class Reply:
    """What a task answered."""

    changes: State
    error: Error | None = None
    retry: Retry | None = None
    wishes: dict[str, Any] = field(default_factory=dict)
    """Of interrupt, wait, subgraph, goto those it asked for."""
    tags: TagChanges = field(default_factory=dict)


@dataclass
class Brought:
    """What a step was continued with: a resume, the end of a child, an event."""

    resumed: Any = NOTHING
    child: Any = NOTHING
    """Its final state, or its error."""
    event: Any = NOTHING


def execute(behaviour: Behaviour, state: State, attempt: int, brought: Brought, note: Note) -> Reply:
    """One execution."""
    flow = ModelFlow(state, attempt, brought)
    try:
        play(behaviour.act(flow), flow, note)
    except _Paused:
        pass
    except _Refused:
        return Reply({}, Error(values.UNSTORABLE))
    except TaskError as error:
        # Only a retry that is granted keeps the changes (S6).
        return Reply(flow.changes, Error(error.message, error.code, error.extra), flow.asked_retry, tags=flow.tags)
    return Reply(flow.changes, None, flow.asked_retry, flow.wishes, flow.tags)


class _Paused(BaseException):
    """An execution that ends because its step parks."""


class _Refused(Exception):
    """The flow takes no such value (S1)."""


class ModelFlow:
    """What a behaviour is played on."""

    def __init__(self, state: State, attempt: int, brought: Brought) -> None:
        self.attempt = attempt
        self.changes: State = {}
        self.tags: TagChanges = {}
        self.wishes: dict[str, Any] = {}
        self.asked_retry: Retry | None = None
        self._state = state
        self._resumed = brought.resumed
        self._child = brought.child
        self._event = brought.event

    def get(self, name: str, default: Any = None) -> Any:
        if name in self.changes:
            value = self.changes[name]
            return default if value is None else copy.deepcopy(value)
        return copy.deepcopy(self._state.get(name, default))

    def set(self, name: str, value: Any) -> None:
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise _Refused
        self.changes[name] = copy.deepcopy(value)

    def tag(self, tags: TagChanges | None = None, /) -> None:
        self.tags = {**self.tags, **(tags or {})}

    def goto(self, node: str) -> None:
        self.wishes["goto"] = node

    def sleep(self, delay: float) -> None:
        """Time makes no difference."""

    def retry(
        self, max_attempts: int | None = None, initial_delay: float = 0, *, give_up_after: float | None = None
    ) -> None:
        late = give_up_after is not None and initial_delay > give_up_after
        self.asked_retry = Retry(max_attempts, late)

    def interrupt(self, payload: Any = None) -> Any:
        if self._resumed is not NOTHING:
            data, self._resumed = self._resumed, NOTHING
            return data
        self.wishes["interrupt"] = payload
        raise _Paused

    def wait_for(self, event: str, key: str = "") -> Any:
        if self._event is not NOTHING:
            data, self._event = self._event, NOTHING
            return data
        self.wishes["wait"] = (event, key)
        raise _Paused

    def subgraph(self, workflow: str, input: Mapping[str, Any] | None = None) -> dict[str, Any]:  # noqa: A002
        if self._child is not NOTHING:
            child, self._child = self._child, NOTHING
            if isinstance(child, Error):
                raise SubgraphError(child.message)
            result: dict[str, Any] = child
            return result
        self.wishes["subgraph"] = (workflow, dict(input or {}))
        raise _Paused
