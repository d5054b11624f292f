"""Bands, fairness and the pages a ready queue is read in (C1-C3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwarf_nats.rules.scheduling import fair_scheduler
from dwarf_nats.rules.scheduling.fair_scheduler import FairScheduler
from dwarf_nats.rules.scheduling.queue_view import QUEUE_VIEW_MAX_KEYS, QueueView
from dwarf_nats.rules.scheduling.values import PAGE_MAX_HEADS, Claim, Page, PageRequest, QueueHead, Share

NOW = 10**15
SECOND = 1_000_000


class Queue:
    """One shard's ready queue in memory: of each band and key its due times, oldest first."""

    def __init__(self, ahead_us: int = 0) -> None:
        self.clock = NOW + ahead_us
        self.waiting: dict[tuple[int, str], list[int]] = {}
        self.weights: dict[tuple[int, str], float] = {}
        self.pages = 0

    def add(self, key: str, steps: int = 1, *, band: int = 1, weight: float = 1.0, age_us: int = 0) -> Queue:
        self.waiting.setdefault((band, key), []).extend([self.clock - age_us] * steps)
        self.waiting[band, key].sort()
        self.weights[band, key] = weight
        return self

    def page(self, request: PageRequest) -> Page:
        self.pages += 1
        heads = sorted(head for head, steps in self.waiting.items() if steps and head[0] > request.floor)
        best = heads[0][0] if heads else None
        start = (best, request.fairness_key if best == request.band else "")
        heads = [head for head in heads if head >= start]
        found = [QueueHead(*head, "task", self.waiting[head][0], self.weights[head]) for head in heads[: request.limit]]
        return Page(self.clock, best, found, len(heads) >= request.limit, None)

    def take(self, shares: Sequence[Share], limit: int) -> list[tuple[Share, list[int]]]:
        taken = []
        skipped = Counter[tuple[int, ...]]()
        for share in shares:
            steps = self.waiting.get((share.priority, share.fairness_key), [])
            # What is to be skipped was taken by the share before.
            number = (
                0 if share.skip > skipped[share.priority, share.fairness_key] else min(share.steps, len(steps), limit)
            )
            skipped[share.priority, share.fairness_key] += number
            limit -= number
            taken.append((share, steps[:number]))
            del steps[:number]
        return taken


class Replica:
    """Reads, plans and claims, as the engine does."""

    def __init__(self, *queues: Queue) -> None:
        self.queues = dict(enumerate(queues, 1))
        self.views = {shard: QueueView() for shard in self.queues}
        self.scheduler = FairScheduler()

    def poll(self, slots: int) -> None:
        for shard, queue in self.queues.items():
            request: PageRequest | None = self.views[shard].first_request(slots)
            while request is not None:
                request = self.views[shard].add_page(request, queue.page(request), NOW, blocked=(), slots=slots)

    def claim(self, slots: int) -> Counter[tuple[int, str]]:
        """One round; how many steps of which band and key."""
        self.poll(slots)
        plan = self.scheduler.plan(self.views, slots)
        got: Counter[tuple[int, str]] = Counter()
        for shard, (limit, shares) in plan.items():
            for share, steps in self.queues[shard].take(shares, limit):
                limit -= len(steps)
                self.scheduler.charge(share, len(steps))
                if limit > 0 or len(steps) == share.steps:
                    self.views[shard].note_claimed(share, len(steps), max(steps, default=0))
                if steps:
                    got[share.priority, share.fairness_key] += len(steps)
        return got

    def keys(self, slots: int, rounds: int) -> str:
        """The keys served, in order, by claims of `slots`."""
        return "".join(key * number for _ in range(rounds) for (_, key), number in self.claim(slots).items())


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ({"a": 1, "b": 1}, "abababab"),
        ({"a": 3, "b": 1}, "abaaabaa"),
        ({"a": 1, "b": 3}, "babbbabb"),
        ({"a": 2, "b": 1, "c": 1}, "abacabac"),
        ({"a": 0.5, "b": 1.5}, "babbbabb"),
        ({"a": 1}, "aaaaaaaa"),
    ],
)
def test_single_steps_are_given_in_turn_by_weight(weights: dict[str, float], order: str) -> None:
    """C2: evenly; of two keys that are due their turn alike, the one with the older step."""
    queue = Queue()
    for age, (key, weight) in enumerate(reversed(weights.items())):
        queue.add(key, 1000, weight=weight, age_us=age)
    assert Replica(queue).keys(1, len(order)) == order


@pytest.mark.parametrize(
    ("slots", "given_out"),
    [
        (100, {"a": 75, "b": 25}),
        (8, {"a": 6, "b": 2}),
        (4, {"a": 3, "b": 1}),
        (1, {"a": 1}),
    ],
)
def test_one_claim_is_divided_by_weight(slots: int, given_out: dict[str, int]) -> None:
    queue = Queue().add("a", 10**4, weight=3, age_us=1).add("b", 10**4)
    assert {key: number for (_, key), number in Replica(queue).claim(slots).items()} == given_out


def test_a_deep_backlog_takes_no_more_than_a_shallow_one() -> None:
    """C2: however deep."""
    replica = Replica(Queue().add("deep", 10**5, age_us=60 * SECOND).add("one", 1))
    assert replica.claim(2) == {(1, "deep"): 1, (1, "one"): 1}


def test_what_one_key_does_not_use_the_others_get() -> None:
    replica = Replica(Queue().add("a", 2).add("b", 100))
    assert replica.claim(50) == {(1, "a"): 2, (1, "b"): 48}
    assert replica.claim(50) == {(1, "b"): 50}


def test_a_better_band_is_served_out_before_a_worse_one() -> None:
    """C1: in one claim, as far as slots reach."""
    queue = Queue().add("x", 3, band=1).add("y", 4, band=2).add("z", 100, band=7)
    assert Replica(queue).claim(10) == {(1, "x"): 3, (2, "y"): 4, (7, "z"): 3}
    assert Replica(Queue().add("x", 30, band=1).add("y", 4, band=2)).claim(10) == {(1, "x"): 10}


def test_a_band_that_comes_up_overtakes() -> None:
    queue = Queue().add("old", 100, band=5, age_us=SECOND)
    replica = Replica(queue)
    assert replica.claim(2) == {(5, "old"): 2}
    queue.add("new", 3, band=4)
    assert replica.claim(2) == {(4, "new"): 2}
    assert replica.claim(2) == {(4, "new"): 1, (5, "old"): 1}


def test_the_best_band_of_all_shards_goes_first() -> None:
    """C1: a worse band waits even if its shard has nothing better."""
    one, two = Queue().add("a", 50, band=2), Queue().add("b", 3, band=1)
    replica = Replica(one, two)
    assert replica.claim(10) == {(1, "b"): 3}
    assert replica.claim(10) == {(2, "a"): 10}


def test_a_key_is_one_key_on_all_shards() -> None:
    """C2: it gets its share once, divided among them."""
    one, two = Queue().add("a", 500).add("b", 500), Queue().add("a", 500)
    replica = Replica(one, two)
    assert replica.claim(100) == {(1, "a"): 50, (1, "b"): 50}
    assert len(one.waiting[1, "a"]) == len(two.waiting[1, "a"]) == 475


def test_the_shard_where_a_step_has_been_due_longest_comes_first() -> None:
    """C2: by age, whatever the shards' clocks say."""
    young = Queue(ahead_us=-3600 * SECOND).add("a", 5, age_us=2 * SECOND)
    old = Queue(ahead_us=7200 * SECOND).add("a", 3, age_us=9 * SECOND)
    replica = Replica(young, old)
    replica.claim(1)
    replica.claim(2)
    assert (len(young.waiting[1, "a"]), len(old.waiting[1, "a"])) == (5, 0)


def test_a_key_that_comes_late_is_owed_nothing() -> None:
    queue = Queue().add("a", 10**4)
    replica = Replica(queue)
    for _ in range(100):
        replica.claim(10)
    queue.add("b", 10**4)
    got = Counter[str]()
    for _ in range(20):
        got.update({key: number for (_, key), number in replica.claim(5).items()})
    assert got == {"a": 50, "b": 50}


def test_a_key_with_one_step_at_a_time_gets_no_more_than_its_share() -> None:
    """C2: it is away each time it was served, and is not first in line for that."""
    queue = Queue().add("deep", 10**4, weight=3).add("trickle", 1)
    replica = Replica(queue)
    got = Counter[str]()
    for _ in range(400):
        ((_, key),) = replica.claim(1)
        got[key] += 1
        if key == "trickle":
            queue.add("trickle")
    assert got == {"deep": 300, "trickle": 100}


def test_a_thousand_keys_get_the_same_though_a_page_shows_a_few() -> None:
    queue = Queue()
    for number in range(1000):
        queue.add(f"k{number}", 1000)
    replica = Replica(queue)
    got = Counter[tuple[int, str]]()
    for _ in range(200):
        got += replica.claim(80)
    assert len(got) == 1000
    assert max(got.values()) - min(got.values()) <= fair_scheduler.LARGEST_QUANTUM_STEPS
    assert queue.pages == 200


def test_keys_of_a_worse_band_are_all_served_while_a_better_one_trickles() -> None:
    """The round over a band goes on where it stood."""
    queue = Queue()
    for number in range(1000):
        queue.add(f"k{number}", 1000, band=2)
    replica = Replica(queue)
    got = Counter[tuple[int, str]]()
    for _ in range(150):
        queue.add("better", 1, band=1)
        got += replica.claim(80)
    assert got.pop((1, "better")) == 150
    assert len(got) == 1000
    assert max(got.values()) - min(got.values()) <= fair_scheduler.LARGEST_QUANTUM_STEPS


def test_a_heavy_key_among_a_thousand_light_ones_gets_its_share_all_along() -> None:
    """C2: not in bursts."""
    queue = Queue()
    for number in range(1000):
        queue.add(f"k{number}", 1000, age_us=SECOND)
    replica = Replica(queue)
    for _ in range(3):
        replica.claim(100)
    queue.add("heavy", 10**5, weight=1000)
    replica.views[1].note_ready(1, "heavy", 1000, NOW)
    got = [replica.claim(100)[1, "heavy"] for _ in range(100)]
    assert all(abs(steps - 50) <= fair_scheduler.LARGEST_QUANTUM_STEPS for steps in got[5:])


def test_a_claim_asks_few_keys_for_several_steps_each_if_all_have_them() -> None:
    """A step is found more cheaply beside another."""
    deep, shallow = Queue(), Queue()
    for number in range(1000):
        deep.add(f"k{number}", 1000)
        shallow.add(f"k{number}", 1)
    for queue, keys in ((deep, 50), (shallow, 200)):
        replica = Replica(queue)
        claims = [replica.claim(200) for _ in range(5)]
        assert (claims[0].total(), len(claims[0])) == (200, 200)
        assert (claims[4].total(), len(claims[4])) == (200, keys)


def test_a_heavy_key_without_work_does_not_make_turns_short() -> None:
    """It asks for half of the claim and gives nothing; the thousand others have plenty."""
    queue = Queue()
    for number in range(1000):
        queue.add(f"k{number}", 1000)
    replica = Replica(queue)
    for _ in range(5):
        replica.claim(200)
    for _ in range(3):
        replica.views[1].note_ready(1, "heavy", 1000, NOW)
        assert set(replica.claim(200).values()) == {fair_scheduler.LARGEST_QUANTUM_STEPS}


@pytest.mark.parametrize(("empty", "heads"), [(0, 25), (2, 25), (20, PAGE_MAX_HEADS)])
def test_a_view_is_read_anew_once_many_of_its_keys_had_nothing(empty: int, heads: int) -> None:
    """One key without work is no reason to read a thousand heads; many are: others have served them out."""
    queue = Queue()
    for number in range(1000):
        queue.add(f"k{number:03}", 1000)
    replica = Replica(queue)
    replica.claim(100)
    replica.claim(100)
    for number in range(150, 150 + empty):
        queue.waiting[1, f"k{number:03}"].clear()
    replica.claim(100)
    assert replica.views[1].first_request(100).limit == heads


def test_what_others_leave_is_spread_over_the_keys() -> None:
    queue = Queue().add("short", 1, weight=100)
    for key in "abcd":
        queue.add(key, 100)
    got = Replica(queue).claim(41)
    assert got.pop((1, "short")) == 1
    assert max(got.values()) - min(got.values()) <= 9


def test_a_key_that_is_heard_of_is_served_before_its_page_is_read() -> None:
    queue = Queue()
    for number in range(1500):
        queue.add(f"k{number:05}", 1)
    replica = Replica(queue)
    for _ in range(10):
        replica.claim(100)
    queue.add("z", 100, weight=5000)
    replica.views[1].note_ready(1, "z", 5000, NOW)
    got = Counter[tuple[int, str]]()
    for _ in range(10):
        got += replica.claim(100)
    assert got[1, "z"] == 100


def test_a_key_that_is_heard_of_while_it_is_served_stays_known() -> None:
    view = QueueView()
    view.add_page(
        view.first_request(5), Page(NOW, 1, [QueueHead(1, "a", "t", NOW, 1.0)], False, None), NOW, blocked=(), slots=5
    )
    view.note_ready(1, "a", 1.0, NOW)
    view.note_claimed(Share(1, "a", 5), 1, NOW)
    assert set(view.keys(1)) == {"a"}
    view.note_claimed(Share(1, "a", 5), 1, NOW)
    assert view.best is None


def test_more_keys_than_are_kept_are_all_served_in_time() -> None:
    """Memory is bounded, and nobody starves for it."""
    queue = Queue()
    keys = 2 * QUEUE_VIEW_MAX_KEYS
    for number in range(keys):
        queue.add(f"k{number:05}", 100)
    replica = Replica(queue)
    got = Counter[tuple[int, str]]()
    for _ in range(8 * keys // 400):
        got += replica.claim(500)
        assert len(replica.views[1].keys(1)) <= QUEUE_VIEW_MAX_KEYS + PAGE_MAX_HEADS
    assert len(got) == keys


def test_bands_and_retained_keys_are_remembered_within_bounds() -> None:
    queue = Queue()
    replica = Replica(queue)
    for number in range(3 * fair_scheduler.RETAINED_MAX_KEYS):
        queue.add(f"k{number}")
        if number % 500 == 499:
            while replica.claim(500):
                pass
    for band in range(2, 500):
        queue.add("a", band=band)
    while replica.claim(7):
        pass
    assert len(replica.scheduler._classes) <= fair_scheduler.MAX_PRIORITY_CLASSES + PAGE_MAX_HEADS
    assert all(len(band.retained) <= fair_scheduler.RETAINED_MAX_KEYS for band in replica.scheduler._classes.values())


def test_each_step_in_a_band_of_its_own_goes_in_order() -> None:
    """Priorities used as deadlines."""
    queue = Queue()
    for band in range(1, 501):
        queue.add("k", band=1000 - band)
    replica = Replica(queue)
    served = [band for _ in range(50) for band, _ in sorted(replica.claim(10))]
    assert served == list(range(500, 1000))


def test_a_key_is_gone_once_a_round_has_not_met_it() -> None:
    queue = Queue().add("a", 5).add("b", 5)
    replica = Replica(queue)
    replica.poll(10)
    assert set(replica.views[1].keys(1)) == {"a", "b"}
    queue.waiting[1, "b"].clear()  # another replica took them
    replica.poll(10)
    assert set(replica.views[1].keys(1)) == {"a"}


def test_tasks_that_are_passed_over_leave_their_band_to_the_next() -> None:
    """C3."""
    view = QueueView()
    heads = [
        QueueHead(1, "a", "shut", NOW, 1.0),
        QueueHead(1, "b", "shut", NOW, 1.0),
        QueueHead(2, "c", "free", NOW, 1.0),
    ]
    assert (
        view.add_page(view.first_request(5), Page(NOW, 1, heads, False, None), NOW, blocked={"shut"}, slots=5) is None
    )
    assert (view.best, view.bands()) == (2, [2])
    assert FairScheduler().plan({1: view}, 5) == {1: Claim(5, [Share(2, "c", 5)])}


def test_a_key_is_known_by_its_oldest_admissible_step() -> None:
    """C2: its weight is that step's."""
    view = QueueView()
    heads = [
        QueueHead(1, "a", "t1", NOW - 5, 1.0),
        QueueHead(1, "a", "t2", NOW - 9, 2.0),
        QueueHead(1, "a", "t3", NOW - 99, 7.0),
        QueueHead(1, "a", "t4", NOW - 7, 4.0),
    ]
    view.add_page(view.first_request(5), Page(NOW, 1, heads, False, None), NOW, blocked={"t3"}, slots=5)
    assert (view.keys(1)["a"].weight, view.keys(1)["a"].since) == (2.0, NOW - 9)


def test_a_band_full_of_tasks_passed_over_is_read_past_in_the_same_poll() -> None:
    view = QueueView()
    request = view.first_request(5)
    blocked = [QueueHead(1, f"k{number}", "shut", NOW, 1.0) for number in range(10)]
    following = view.add_page(request, Page(NOW, 1, blocked, True, None), NOW, blocked={"shut"}, slots=5)
    assert following is not None
    assert following.floor == 1
    assert (
        view.add_page(
            following, Page(NOW, 2, [QueueHead(2, "a", "free", NOW, 1.0)], False, None), NOW, blocked={"shut"}, slots=5
        )
        is None
    )
    assert (view.best, view.is_empty, view.complete) == (2, False, False)


def test_nothing_admissible_is_a_verdict_on_the_whole_queue_only() -> None:
    view = QueueView()
    blocked = [QueueHead(1, f"k{number}", "shut", NOW, 1.0) for number in range(10)]
    following = view.add_page(view.first_request(5), Page(NOW, 1, blocked, True, None), NOW, blocked={"shut"}, slots=5)
    assert following is not None
    assert view.add_page(following, Page(NOW, None, [], False, None), NOW, blocked={"shut"}, slots=5) is None
    assert not view.is_empty
    request = view.first_request(5)
    assert (request.band, request.fairness_key) == (1, "k9")
    assert view.add_page(request, Page(NOW, 1, blocked[9:], False, None), NOW, blocked={"shut"}, slots=5) is None
    assert view.is_empty


def test_a_step_that_is_not_due_yet_is_known_by_its_time_only() -> None:
    """C5."""
    view = QueueView()
    late = QueueHead(1, "a", "t", NOW + 70, 1.0)
    view.add_page(view.first_request(5), Page(NOW, 1, [late], False, NOW + 90), NOW - 1000, blocked=(), slots=5)
    assert (view.best, view.next_due_at) == (None, NOW - 930)
    view.note_scheduled(NOW - 950)
    assert view.next_due_at == NOW - 950


weights = st.floats(0.05, 20)


@settings(deadline=None, max_examples=60)
@given(st.lists(weights, min_size=1, max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_service_is_proportional_within_a_step_of_each(shares: list[float], claims: list[int]) -> None:
    """C2: over any stretch, for any two keys that always have work."""
    queue = Queue()
    for number, weight in enumerate(shares):
        queue.add(str(number), 2000, weight=weight)
    replica = Replica(queue)
    got = Counter[str]()
    for slots in claims:
        got.update({key: number for (_, key), number in replica.claim(slots).items()})
        for a, first in enumerate(shares):
            for b, second in enumerate(shares):
                assert got[str(a)] / first - got[str(b)] / second <= 1 / first + 1 / second + 1e-6
    assert got.total() == sum(claims)


backlog = st.dictionaries(st.tuples(st.integers(1, 4), st.sampled_from("abcdef")), st.integers(1, 30), max_size=12)


@settings(deadline=None, max_examples=100)
@given(st.lists(backlog, min_size=1, max_size=3), st.integers(1, 20))
def test_no_hand_is_idle_while_work_waits_and_no_band_is_skipped(
    backlogs: list[dict[tuple[int, str], int]], slots: int
) -> None:
    """C1, and work conserving: rounds serve everything, and nothing of a worse band while a better one waits."""
    queues = []
    for found in backlogs:
        queue = Queue()
        for (band, key), steps in found.items():
            queue.add(key, steps, band=band)
        queues.append(queue)
    replica = Replica(*queues)
    left = sum(sum(found.values()) for found in backlogs)
    while left:
        waiting = Counter[int]()
        for queue in queues:
            for (band, _), steps in queue.waiting.items():
                waiting[band] += len(steps)
        got = replica.claim(slots)
        assert 0 < got.total() <= slots
        for band, _ in got:
            better = {one: number for one, number in waiting.items() if one < band and number}
            served = Counter[int]()
            for (one, _), number in got.items():
                served[one] += number
            assert all(served[one] == number for one, number in better.items())
        left -= got.total()
    assert not replica.claim(slots)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 3)), max_size=120), st.integers(1, 3))
def test_nobody_starves_while_others_come_and_go(arrivals: list[tuple[str, int]], slots: int) -> None:
    """A key that always has work gets its part, whatever new keys turn up each time."""
    queue = Queue().add("patient", 10**4)
    replica = Replica(queue)
    got = 0
    for number, (key, steps) in enumerate(arrivals):
        queue.add(f"{key}{number}", steps)
        got += sum(n for (_, one), n in replica.claim(slots).items() if one == "patient")
    active = sum(steps for _, steps in arrivals) + 1
    assert got >= len(arrivals) * slots // (active + 1)
