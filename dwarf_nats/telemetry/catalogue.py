"""The catalogue of all metrics (T1). The instruments are made from it, and `docs/operating/metrics.md` is generated:
`python -m dwarf_nats.telemetry.catalogue > docs/operating/metrics.md`.

Names are such that Prometheus, which moves `total` to the end of a counter's name and puts the unit there, leaves them as
they are. No label takes a key; and since callers can make up names of workflows and tasks without end, a metric has
`MANY_NAMES` series and counts the rest as `OTHER`.
"""

from __future__ import annotations

from textwrap import fill

from .large_value_metrics import BYTES_REMOVED as BYTES_REMOVED
from .large_value_metrics import LAST_SWEEP as LAST_SWEEP
from .large_value_metrics import SWEEPS as SWEEPS
from .large_value_metrics import VALUE_BYTES as VALUE_BYTES
from .large_value_metrics import VALUES as VALUES
from .large_value_metrics import VALUES_REMOVED as VALUES_REMOVED
from .metric import Kind as Kind
from .metric import Metric as Metric
from .source_metrics import OUTBOX_OLDEST as OUTBOX_OLDEST
from .source_metrics import OUTBOX_ROWS as OUTBOX_ROWS
from .source_metrics import OUTBOX_STARTED as OUTBOX_STARTED
from .source_metrics import SOURCE_PENDING as SOURCE_PENDING
from .source_metrics import SOURCE_REJECTED as SOURCE_REJECTED
from .source_metrics import SOURCE_STARTED as SOURCE_STARTED

SCOPE = "dwarf_nats"
MANY_NAMES = 1_000
"""Series of one metric, those first seen; all further ones share one, or are left out. Bounds memory and cost."""
OTHER = "other"
COUNTED = 10_000
"""Highest number of steps of one band that a gauge counts: this value means so many or more."""
BANDS = 16
"""Bands with due steps that are read, the best first."""
LATE_SECONDS = 10
"""Lateness from which a schedule counts as late."""
KEYS = 1_000
"""Fairness keys of one band that are read."""
COUNTED_FLOWS = 10_000
"""Flows of one status and shard that a gauge counts at most."""


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_LIFE = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 86_400, 3 * 86_400, 7 * 86_400, 30 * 86_400)
_COMMIT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

FLOWS_STARTED = Metric(
    "dwarf_flows_started_total", _C, "{flow}", ("workflow",),
    "Flows that began to run, by start, restart, restart_from or fork. Subgraph flows count too.",
    "The load of new flows.",
)  # fmt: skip
FLOWS_TERMINATED = Metric(
    "dwarf_flows_terminated_total", _C, "{flow}", ("workflow", "status"),
    "Flows that ended, by status: completed, failed or cancelled.",
    "Throughput of flows. If it stands still while steps are pending, something is stuck.",
)  # fmt: skip
FLOWS_ORPHANED = Metric(
    "dwarf_flows_orphaned", _G, "{flow}", (),
    "Running flows without a live step for five minutes, as counted by the leading replica.",
    "Nothing moves them by itself. The log names them: look at their history, then restart or cancel them.",
    rests_at_zero=True,
)  # fmt: skip
FLOWS = Metric(
    name="dwarf_flows",
    kind=_G,
    unit="{flow}",
    labels=("workflow", "status"),
    description=(
        "Root flows by workflow and status (created, running, interrupted, failed, cancelled;"
        " `dwarf_flows_terminated_total` counts completed ones). One replica counts them once a minute:"
        f" at most {COUNTED_FLOWS:,} of a status and shard, the newest failed and cancelled flows, and of the others"
        " the oldest."
    ),
    interpretation="It shows which workflows pile up. Failed flows stay until somebody restarts, deletes or purges them.",
    of_deployment=True,
)
OLDEST_RUNNING = Metric(
    name="dwarf_flows_oldest_running_age_seconds",
    kind=_G,
    unit="s",
    labels=("workflow",),
    description=(
        "Longest time for which a running flow has run without a pause, by workflow, among the counted flows."
    ),
    interpretation="If it grows beyond what the workflow should take, explain that flow.",
    of_deployment=True,
)
OLDEST_PAUSED = Metric(
    name="dwarf_flows_oldest_paused_age_seconds",
    kind=_G,
    unit="s",
    labels=("workflow",),
    description=("How long the flow that was paused first has been so, by workflow, among the flows that are counted."),
    interpretation="Somebody has not answered, or a breakpoint was forgotten.",
    of_deployment=True,
)
FLOW_TIME = Metric(
    name="dwarf_flow_duration_seconds",
    kind=_H,
    unit="s",
    labels=("workflow",),
    description=(
        "Time from the creation of a flow to its end, whatever its status, with pauses and waits. Above 1,000 flows a"
        " second of one workflow it is a sample."
    ),
    interpretation="The duration of a workflow.",
    buckets=_LIFE,
)
STEPS_EXECUTED = Metric(
    "dwarf_steps_executed_total", _C, "{step}", ("task", "status"),
    "Executions whose result is in the database, by the result: completed, failed, retried, interrupted,"
    " waiting (for its subgraph, an event or a time), cancelled (its flow had ended, or was rewound).",
    "Throughput, and the share of failures and retries of each task.",
)  # fmt: skip
STEPS_RECOVERED = Metric(
    "dwarf_steps_recovered_total", _C, "{step}", (),
    "Steps that became pending again because their replica was silent or their lease had run out.",
    "A replica was killed or was blocked. If it rises without a deployment, look for crashes, stalls and full disks.",
    rests_at_zero=True,
)  # fmt: skip
STEPS_FENCED = Metric(
    "dwarf_steps_fenced_total", _C, "{step}", (),
    "Results that were dropped because another replica had claimed the step meanwhile.",
    "The task ran twice; the state is not affected. If it rises, replicas stall for longer than their timeout.",
    rests_at_zero=True,
)  # fmt: skip
STEPS_LOST = Metric(
    "dwarf_steps_lost_total", _C, "{step}", ("task",),
    "Steps released because their worker was gone or hung.",
    "Worker processes die or hang while they work on this task.",
    rests_at_zero=True,
)  # fmt: skip
STEPS_GIVEN_BACK = Metric(
    "dwarf_steps_given_back_total", _C, "{step}", ("task",),
    "Dispatches without a result, whose steps became pending again: the task was busy or could not serve, the worker was"
    " lost, the bus or the graph was away, or the replica drained.",
    "Wasted work.",
)  # fmt: skip
SKIPPED_SATURATED = Metric(
    "dwarf_steps_skipped_saturated_total", _C, "{claim}", ("task",),
    "Claims and dispatches that passed a task over because its valve was shut.",
    "The task gets as many requests as it can serve; more instances would help.",
)  # fmt: skip
LIMIT_WAITS = Metric(
    "dwarf_limit_waits_total",
    _C,
    "{step}",
    ("limit",),
    "Claimed steps that had to wait for a limit.",
    "More steps arrive than the limit allows to begin.",
)
LIMIT_RUNNING = Metric(
    "dwarf_limit_running",
    _G,
    "{permit}",
    ("limit",),
    "Steps, or flows of a limited workflow, that a limit counts, over all its keys.",
    "When it reaches `concurrency`, other steps wait.",
    of_deployment=True,
)
LIMIT_WAITING = Metric(
    "dwarf_limit_waiting",
    _G,
    "{step}",
    ("limit",),
    "Steps that wait for a limit.",
    "If it grows for a long time, more steps arrive than the limit allows to begin.",
    of_deployment=True,
)
LIMIT_OLDEST_WAIT = Metric(
    "dwarf_limit_oldest_wait_seconds",
    _G,
    "s",
    ("limit",),
    "Age of the oldest step that waits for a limit; 0 if none waits.",
    "If it is more than minutes, the limit delays flows: raise the limit, or send less work.",
    of_deployment=True,
)
RATE_CUTS = Metric(
    "dwarf_task_rate_cuts_total", _C, "{cut}", ("task",),
    "Answers of a task that it is busy (429). Each one cut its rate.",
    "The task is at its capacity.",
)  # fmt: skip
BREAKER_TRIPS = Metric(
    "dwarf_task_breaker_trips_total", _C, "{trip}", ("task", "cause"),
    "Breakers that tripped on this replica, by cause: no_responders, forbidden, unavailable or overloaded. A trip on another"
    " replica is counted there.",
    "The task could not serve.",
)  # fmt: skip
BREAKER_PROBES = Metric(
    "dwarf_task_breaker_probes_total", _C, "{probe}", ("task", "outcome", "cause"),
    "Probes of tripped breakers, by outcome (served, refused, unanswered) and the cause of the trip.",
    "While probes are refused, the task is still down.",
)  # fmt: skip
REQUESTS = Metric(
    "dwarf_requests_total", _C, "{request}", ("operation",),
    "Requests that arrived, by operation.",
    "The load of operations.",
)  # fmt: skip
REQUESTS_REFUSED = Metric(
    "dwarf_requests_refused_total", _C, "{request}", ("operation", "code"),
    "Requests that were refused, by operation and code.",
    "429: more requests than the replica accepts. 500: a defect of dwarf-nats. 503: a server is away.",
)  # fmt: skip
REQUESTS_LOST = Metric(
    "dwarf_requests_lost_total", _C, "{request}", ("operation",),
    "Requests without a reply subject that were not carried out: the queue was full, or the replica stopped before"
    " their turn.",
    "Their senders do not know. Publish more slowly, give a reply subject, or raise `--max-queued-bytes`.",
    rests_at_zero=True,
)  # fmt: skip
SIGNALS_MALFORMED = Metric(
    "dwarf_signals_malformed_total", _C, "{signal}", (),
    "Signals of other replicas that could not be read and were dropped.",
    "Another program publishes on the peers' subjects, or versions differ.",
    rests_at_zero=True,
)  # fmt: skip
PROGRESS_MALFORMED = Metric(
    "dwarf_progress_malformed_total",
    _C,
    "{message}",
    (),
    "Progress of tasks that could not be read and was dropped. The steps go on.",
    "A worker sends more than 4 KiB, or fields that a progress does not have. The log names the step.",
)
SIGNALS_DROPPED = Metric(
    "dwarf_signals_dropped_total", _C, "{signal}", (),
    "Signals to other replicas that were not sent: the bus was away, or they were too large.",
    "The other replicas find the work later, in the database.",
)  # fmt: skip
OUTAGES = Metric(
    "dwarf_shard_outages_total", _C, "{outage}", ("shard",),
    "Times a replica found the database of a shard to be away.",
    "The database restarts, or the network drops.",
    rests_at_zero=True,
)  # fmt: skip
COMMITS = Metric(
    "dwarf_commit_groups_total", _C, "{group}", ("shard",),
    "Groups of results and creations that were committed together.",
    "Transactions of the hot path.",
)  # fmt: skip
COMMITTED = Metric(
    "dwarf_commit_members_total", _C, "{member}", ("shard",),
    "Results and creations in those groups.",
    "Divided by the groups, it is the number of results per transaction. It grows with the load.",
)  # fmt: skip
SCHEDULE_RUNS = Metric(
    "dwarf_schedule_runs_total",
    _C,
    "{run}",
    ("outcome",),
    "Due times of schedules by outcome: started, skipped, missed or failed. Triggered and backfilled runs count as"
    " started.",
    "`missed`: no replica or database was there for longer than catchUpMs. `failed`: the flow could not be created.",
)
SCHEDULES_LATE = Metric(
    "dwarf_schedules_late",
    _G,
    "{schedule}",
    (),
    f"Schedules that should have fired {LATE_SECONDS} seconds ago and have not; at most {COUNTED:,} are counted.",
    "Replicas or the database of shard 1 do not keep up, or flows cannot be created.",
    rests_at_zero=True,
    of_deployment=True,
)
QUEUE_DEPTH = Metric(
    "dwarf_steps_queue_depth", _G, "{step}", (),
    f"Steps that are due and wait for a worker slot, over all shards and bands; at most {COUNTED:,} of a band and shard are"
    " counted.",
    "The backlog. Scheduled steps and those held by a breaker are not in it.",
    of_deployment=True,
)  # fmt: skip
PENDING = Metric(
    "dwarf_steps_pending", _G, "{step}", ("priority",),
    f"The same by priority, of the {BANDS} best bands.",
    "It shows which priority waits.",
    of_deployment=True,
)  # fmt: skip
OLDEST = Metric(
    "dwarf_steps_oldest_pending_age_seconds", _G, "s", ("priority",),
    f"Time since the oldest waiting step became due, by priority; of the first {KEYS:,} fairness keys of a band.",
    "If it grows, worker slots or tasks do not keep up, or a better band takes everything.",
    of_deployment=True,
)  # fmt: skip
FAIRNESS_KEYS = Metric(
    "dwarf_steps_fairness_keys", _G, "{key}", ("priority",),
    f"Fairness keys with due steps, by priority; at most {KEYS:,} of a band and shard are counted, and the shards added up.",
    "The number of keys that share the band.",
    of_deployment=True,
)  # fmt: skip
RATE_LIMIT = Metric(
    "dwarf_task_rate_limit", _G, "{step}", ("task",),
    "Operations per second that this replica's valve allows a task that has answered 429; 100,000 means no limit.",
    "A low value means that the task is throttled.",
)  # fmt: skip
RUNNING = Metric(
    "dwarf_task_concurrency_running", _G, "{step}", ("task",),
    "Worker slots of this replica in use, by task, including results that wait for a commit.",
    "When all slots are in use, the replica is full. A task that stays at three quarters of the slots, or above, hangs"
    " or is slow. Other tasks have the rest.",
)  # fmt: skip
BREAKER_STATE = Metric(
    "dwarf_task_breaker_state", _G, "{state}", ("task",),
    "1 while this replica knows that the task's breaker is tripped, 0 once it is closed again.",
    "If it stays at 1, the task is down: its steps are held, and none fails.",
    rests_at_zero=True,
)  # fmt: skip
SHARD_UP = Metric(
    "dwarf_shard_up", _G, "{state}", ("shard",),
    "1 if the database of the shard answers this replica, 0 while it is away.",
    "At 0, its flows wait and operations on them answer 503; nothing is lost.",
)  # fmt: skip
QUEUE_WAIT = Metric(
    "dwarf_step_queue_wait_seconds", _H, "s", ("task",),
    "Time from when a step was due to its claim. Steps that started eagerly, as in an idle deployment, did not wait"
    " and are not counted. Above 1,000 steps a second of one task it is a sample.",
    "Latency that more worker slots, or more capacity of the tasks, would remove.",
    buckets=_LATENCY,
)  # fmt: skip
TASK_TIME = Metric(
    "dwarf_step_task_seconds", _H, "s", ("task",),
    "Time from the request to a task to its answer. Above 1,000 steps a second of one task it is a sample;"
    " `dwarf_steps_executed_total` has the number of steps.",
    "The speed of the tasks, including NATS.",
    buckets=_LATENCY,
)  # fmt: skip
COMMIT_TIME = Metric(
    "dwarf_step_commit_seconds", _H, "s", ("shard",),
    "Duration of the transaction that wrote a group of results; one value per group. Each step of the group waited that long.",
    "The speed of the database.",
    buckets=_COMMIT,
)  # fmt: skip

CATALOGUE = (
    FLOWS_STARTED, FLOWS_TERMINATED, FLOWS, OLDEST_RUNNING, OLDEST_PAUSED, FLOW_TIME, FLOWS_ORPHANED,
    STEPS_EXECUTED, STEPS_RECOVERED, STEPS_FENCED, STEPS_LOST, STEPS_GIVEN_BACK, SKIPPED_SATURATED,
    LIMIT_WAITS, LIMIT_RUNNING, LIMIT_WAITING, LIMIT_OLDEST_WAIT,
    QUEUE_DEPTH, PENDING, OLDEST, FAIRNESS_KEYS, QUEUE_WAIT, TASK_TIME, COMMIT_TIME,
    RATE_CUTS, RATE_LIMIT, RUNNING, BREAKER_TRIPS, BREAKER_PROBES, BREAKER_STATE,
    SOURCE_STARTED, SOURCE_REJECTED, SOURCE_PENDING, OUTBOX_STARTED, OUTBOX_ROWS, OUTBOX_OLDEST,
    REQUESTS, REQUESTS_REFUSED, REQUESTS_LOST, SIGNALS_MALFORMED, SIGNALS_DROPPED, PROGRESS_MALFORMED,
    SCHEDULES_LATE, SCHEDULE_RUNS,
    VALUES, VALUE_BYTES, LAST_SWEEP, VALUES_REMOVED, BYTES_REMOVED, SWEEPS,
    SHARD_UP, OUTAGES, COMMITS, COMMITTED,
)  # fmt: skip
"""All of them, in the order of the documentation."""


def document() -> str:
    """`docs/operating/metrics.md`."""
    zero = "\n".join(f"- `{one.name}`" for one in CATALOGUE if one.rests_at_zero)
    same = fill(", ".join(f"`{one.name}`" for one in CATALOGUE if one.of_deployment), 120)
    return f"""# Metrics

For operators. After this page you know what each metric counts and what it tells you. [Telemetry](telemetry.md) says how to
collect them. This page is generated from `dwarf_nats/telemetry/catalogue.py`.

The scope is `{SCOPE}`. Prometheus shows the names as they are written here. Counters belong to one replica and count from its
start, so add them up.

{same}
are read from the databases and are the same on every replica, so take the largest. No label contains a key. A metric has at
most {MANY_NAMES:,} series, in the order in which they appear. A counter or histogram counts further ones as `{OTHER}`.

{"".join(_section(one) for one in CATALOGUE)}
## What should be zero

Investigate any other value. [`prometheus/alerts.yml`](prometheus/alerts.yml) has alert rules.

{zero}
"""


def _section(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    unit = {"s": "seconds"}.get(metric.unit, f"{metric.unit.strip('{}')}s")
    spread = f"\n\nBuckets, in seconds: {', '.join(f'{one:g}' for one in metric.buckets)}." if metric.buckets else ""
    return f"""## `{metric.name}`

{metric.kind} · {unit} · labels: {labels}

{fill(f"{metric.description} {metric.interpretation}", 120)}{spread}

"""


if __name__ == "__main__":
    import sys

    sys.stdout.write(document())
