"""Exchanges of permits on values: who gets one, who waits, and what rates allow (K1)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.rules.limiting import Because, Count, Demand, Exchange, Exchanged, LimitBook, Over, Permit, Root, Want
from dwarf_nats.workflow.limit import Limit, checked_limit, limits_of

FEW = Limit(name="few", task="work", concurrency=2)
RATED = Limit(name="rated", task="work", per_second=2.0, burst=3)
SECOND = 1_000_000


class Books:
    """The stored counts and permits of a test."""

    def __init__(self, *limits: Limit) -> None:
        self.limits = {one.name: one for one in limits}
        self.counts: dict[str, Count] = {}
        self.permits: dict[str, Permit] = {}
        self.now = 0

    def exchange(self, wants: Sequence[Want] = (), over: Sequence[Over] = ()) -> Exchanged:
        for want in wants:
            for demand in want.demands:
                self.counts.setdefault(demand.slot, Count())
        result = Exchange(self.limits, self.counts, self.permits, self.now).run(over, wants)
        assert all(count.running >= count.reserved >= 0 for count in self.counts.values())
        held: dict[str, int] = {}
        for permit in self.permits.values():
            held[permit.slot] = held.get(permit.slot, 0) + 1
        assert {slot: count.running for slot, count in self.counts.items() if count.running} == held
        return result


def want(step_id: int, *limits: Limit, generation: int = 1, begins: bool = True, forced: bool = False) -> Want:
    demands = [
        Demand(limit=one, slot=one.slot(""), shard=1, holder=step_id, generation=generation, forced=forced)
        for one in limits
    ]
    return Want(1, step_id, demands, begins)


def over(step_id: int, limit: Limit, generation: int = 1) -> Over:
    return Over(f"{limit.name}/s1-{step_id}", generation)


def granted(result: Exchanged) -> list[int]:
    return [one.step_id for one in result.granted]


def test_permits_are_given_in_order_as_long_as_there_are_some() -> None:
    books = Books(FEW)
    result = books.exchange([want(number, FEW) for number in range(4)])
    assert granted(result) == [0, 1]
    assert [(one.step_id, denial.slot, denial.because) for one, denial in result.denied] == [
        (2, "few/", Because.LIMIT),
        (3, "few/", Because.LIMIT),
    ]
    assert granted(books.exchange([want(3, FEW)], [over(0, FEW)])) == [3]


def test_the_end_of_an_earlier_claim_takes_nothing_from_a_later_one() -> None:
    """A permit belongs to a generation: what comes late, or twice, changes nothing."""
    books = Books(FEW)
    books.exchange([want(1, FEW)])
    books.exchange([want(1, FEW, generation=2)])
    assert books.counts["few/"].running == 1
    assert not books.exchange(over=[over(1, FEW, 1)]).removed
    late = books.exchange([want(1, FEW, generation=1)])
    assert granted(late) == []
    assert books.permits["few/s1-1"].generation == 2
    assert books.exchange(over=[over(1, FEW, 2)]).freed == {"few/"}


def test_a_reserved_permit_is_used_by_the_claim_it_is_for() -> None:
    books = Books(FEW)
    books.exchange([want(1, FEW, generation=5, begins=False)])
    assert (books.counts["few/"].running, books.counts["few/"].reserved) == (1, 1)
    assert granted(books.exchange([want(1, FEW, generation=5)])) == [1]
    assert (books.counts["few/"].running, books.counts["few/"].reserved) == (1, 0)


def test_a_step_gets_all_its_permits_or_none() -> None:
    other = Limit(name="other", task="work", concurrency=1)
    books = Books(FEW, other)
    assert granted(books.exchange([want(1, FEW, other), want(2, FEW, other)])) == [1]
    assert books.counts["few/"].running == 1


def test_what_ran_before_is_counted_beyond_the_limit() -> None:
    books = Books(FEW)
    assert granted(books.exchange([want(number, FEW, forced=True) for number in range(3)])) == [0, 1, 2]
    assert granted(books.exchange([want(9, FEW)], [over(0, FEW)])) == []


def test_a_flow_keeps_its_place_while_it_runs_and_gives_it_back_when_it_stops() -> None:
    flows = Limit(name="flows", workflow="order", concurrency=1)
    books = Books(flows)
    books.exchange([want(7, flows, generation=100)])
    assert granted(books.exchange([want(7, flows, generation=200)])) == [7]
    assert books.permits["flows/f1-7"].generation == 200
    assert not books.exchange(over=[Over("flows/f1-7", 150, older=True)]).removed
    assert books.exchange(over=[Over("flows/f1-7", 300, older=True)]).freed == {"flows/"}


def test_a_rate_lets_so_many_begin_and_says_when_the_next_may() -> None:
    books = Books(RATED)
    result = books.exchange([want(number, RATED) for number in range(5)])
    assert granted(result) == [0, 1, 2]
    ((_, denial), _) = result.denied
    assert (denial.because, denial.retry_us) == (Because.RATE, SECOND // 2)
    books.now = SECOND // 2
    assert granted(books.exchange([want(number, RATED) for number in (3, 4)])) == [3]


def test_reserved_beginnings_count_against_the_rate() -> None:
    books = Books(RATED)
    assert granted(books.exchange([want(number, RATED, begins=False) for number in range(5)])) == [0, 1, 2]
    books.now = 10 * SECOND
    assert granted(books.exchange([want(9, RATED, begins=False)])) == []


@pytest.mark.parametrize("per_second", [0.5, 3.0, 50.0])
def test_no_ten_seconds_see_more_than_a_tenth_too_many(per_second: float) -> None:
    limit = Limit(name="rate", task="work", per_second=per_second)
    books, chance, began, step = Books(limit), random.Random(5), [], 0
    while books.now < 60 * SECOND:
        books.now += round(chance.expovariate(40) * SECOND)
        result = books.exchange([want(step + number, limit) for number in range(chance.randrange(4))])
        began += [books.now] * len(result.granted)
        step += 4
    for first in began:
        count = sum(first <= one < first + 10 * SECOND for one in began)
        assert count <= max(10 * per_second * 1.1, 10 * per_second + 1)


def test_random_exchanges_never_exceed_a_limit() -> None:
    """Whatever is claimed, given back, repeated and lost: the permits of a slot never exceed it."""
    limits = [FEW, Limit(name="each", task="work", by="fairnessKey", concurrency=1)]
    chance, books = random.Random(3), Books(*limits)
    generations = dict.fromkeys(range(12), 0)
    for _ in range(3_000):
        step_id = chance.randrange(12)
        if chance.random() < 0.4:
            generations[step_id] += 1
        generation = max(1, generations[step_id] - chance.randrange(2))
        slots = {FEW.name: "few/", "each": f"each/{step_id % 3}"}
        demands = [
            Demand(limit=one, slot=slots[one.name], shard=1, holder=step_id, generation=generation) for one in limits
        ]
        ended = [over(chance.randrange(12), chance.choice(limits), chance.randrange(1, 60)) for _ in range(2)]
        books.exchange([Want(1, step_id, demands, chance.random() < 0.7)], ended)
        assert books.counts["few/"].running <= 2
        assert all(count.running <= 1 for slot, count in books.counts.items() if slot.startswith("each/"))


def test_demands_follow_the_task_the_root_flow_and_their_keys() -> None:
    book = LimitBook()
    book.replace(
        {
            "few": FEW,
            "tags": Limit(name="tags", task="work", by="tag:bank", concurrency=1),
            "flows": Limit(name="flows", workflow="order", by="fairnessKey", concurrency=1, since=50),
        }
    )
    root = Root(8, "order", 99, '{"bank":4711}')
    found = book.demands(1, (5, 2), url="work", fairness_key="acme", root=root, begun_at=None)
    assert [(one.slot, one.permit, one.generation, one.forced) for one in found] == [
        ("few/", "few/s1-5", 2, False),
        ("tags/4711", "tags/s1-5", 2, False),
        ("flows/acme", "flows/f1-8", 99, False),
    ]
    early = book.demands(1, (5, 2), url="other", fairness_key="acme", root=root, begun_at=49)
    assert [(one.slot, one.forced) for one in early] == [("flows/acme", True)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "either a `task`"),
        ({"task": "a", "workflow": "b", "concurrency": 1}, "either a `task`"),
        ({"task": "a"}, "how much is allowed"),
        ({"task": "a", "concurrency": 0}, "concurrency must be from 1"),
        ({"task": "a", "per_second": 0.0}, "perSecond must be from one a day"),
        ({"task": "a", "concurrency": 1, "burst": 2}, "`burst` belongs to a rate"),
        ({"task": "a", "concurrency": 1, "by": "tenant"}, "fairnessKey or tag:<name>"),
        ({"task": "a", "concurrency": 1, "by": "tag:"}, "fairnessKey or tag:<name>"),
        ({"task": "a b", "concurrency": 1}, "task"),
        ({"workflow": "a..b", "concurrency": 1}, "workflow"),
        ({"name": "a.b", "task": "a", "concurrency": 1}, "has a dot"),
    ],
)
def test_a_limit_that_says_too_little_or_too_much_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        checked_limit(msgspec.structs.replace(Limit(name="a"), **fields))


def test_a_document_that_is_no_limit_limits_nothing() -> None:
    class Document:
        def __init__(self, body: str) -> None:
            self.body = body

    found = limits_of({"few": Document(FEW.body()), "bad": Document("[]"), "old": Document('{"of":"another kind"}')})
    assert found == {"few": FEW}
