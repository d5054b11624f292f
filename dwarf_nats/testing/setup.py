"""The part of a test environment that says what there is: graphs, tasks, fakes, services and failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dwarf_nats.local.functions import graphs_with
from dwarf_nats.local.graph_book import GraphBook
from dwarf_nats.testing.activity import Activity
from dwarf_nats.testing.fakes import Fake, new_fake
from dwarf_nats.testing.faults import Kind
from dwarf_nats.testing.skipping_clock import SkippingClock
from dwarf_nats.testing.surroundings import EnvServices, EnvTasks, Surroundings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dwarf_nats.local.functions import TaskSource
    from dwarf_nats.local.graph_book import GraphSource
    from dwarf_nats.testing.fakes import Emitted, Raised, ServiceRecord, TaskRecord
    from dwarf_nats.testing.faults import Nth, When


class Setup:
    """A base of `FlowEnv`."""

    def __init__(self, start: int) -> None:
        self.activity = Activity()
        self.clock = SkippingClock(start, self.activity)
        self.around = Surroundings(self.clock, self.activity)
        self.tasks = EnvTasks(self.around)
        self.services = EnvServices(self.around)
        self.book = GraphBook()

    # -- what there is

    def use(self, *sources: TaskSource) -> None:
        """Register the tasks and graphs of workers as they are; also functions, and mappings of urls to functions."""
        for source in sources:
            self.tasks.add(source)
            self.graphs(*graphs_with(source))

    def graphs(self, *sources: GraphSource) -> None:
        """Register graphs: objects, files, or folders of files. Raises `BadRequest` for a graph that is not sound."""
        for source in sources:
            self.book.add(source)

    def fake(self, task: str, *, returns: Any = None, raises: Raised | None = None, side_effect: Any = None) -> Fake:
        """Answer a task by a fake, also where a worker has it. The fake returned records its calls.

        `task`: the url of the task, or its NATS subject `task.URL`.
        `returns`: the changes. `raises`: an exception. `side_effect`: a function, whose parameters are fields of the state as
        those of a task are, or an iterable with one value or exception for each call.
        """
        self.tasks.fakes[task] = fake = new_fake(task, returns, raises, side_effect)
        return fake

    def service(
        self, subject: str, *, returns: Any = None, raises: Raised | None = None, side_effect: Any = None
    ) -> Fake:
        """Answer the requests of graphs to a subject, or to those that a pattern with `*` and `>` fits.

        As `fake`; a function as `side_effect` gets the request: its `subject`, `payload` and `headers`.
        """
        self.services.fakes[subject] = fake = new_fake(subject, returns, raises, side_effect)
        return fake

    # -- what was asked

    @property
    def published(self) -> Sequence[ServiceRecord]:
        """The messages that publish nodes have sent, in order."""
        return self.services.published

    @property
    def emitted(self) -> Sequence[Emitted]:
        """The output that tasks have emitted while they ran, in order: `data`, and `by` which execution."""
        return self.tasks.emitted

    @property
    def calls(self) -> Mapping[str, Sequence[TaskRecord]]:
        """Every execution of a task, by its url, in order: attempts and executions after a crash included."""
        return self.tasks.calls

    # -- failures

    def fail(self, name: str, nth: Nth = 1, error: Raised | None = None, when: When | None = None) -> None:
        """Fail the `nth` call of a task, or of the service at a subject; the task does not run.

        `nth`: a number from 1, or several. `error`: an exception, such as `TaskError("declined", 402)`. `when`: a function of
        the call that says which ones count, such as `lambda call: call.state["item"] == 3`.
        """
        self.around.faults.add(Kind.ERROR, name, nth, when, error=error)

    def time_out(self, name: str, nth: Nth = 1, when: When | None = None) -> None:
        """Leave the `nth` call unanswered until its time budget is over."""
        self.around.faults.add(Kind.TIMEOUT, name, nth, when)

    def malformed(self, name: str, nth: Nth = 1, when: When | None = None) -> None:
        """Answer the `nth` call with a reply that is no JSON."""
        self.around.faults.add(Kind.MALFORMED, name, nth, when)

    def crash_in(self, name: str, nth: Nth = 1, when: When | None = None) -> None:
        """Kill the replica when the `nth` call has been carried out, before its result is stored: it is made again."""
        self.around.faults.add(Kind.CRASH, name, nth, when)
