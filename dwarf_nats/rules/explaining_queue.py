"""The explanation of steps that are due and not dispatched: no worker, other steps first, a task that holds them (Q2). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.rules.holds import NO_HOLDS, Holds
from dwarf_nats.workflow.explanation import Because, Reason, Wait
from dwarf_nats.workflow.nodes import ENGINE_URL
from dwarf_nats.workflow.status import Parked

if TYPE_CHECKING:
    from dwarf_nats.rules.living import LivingFlow, LivingStep
    from dwarf_nats.rules.replica_facts import ReplicaFacts, TaskFacts

_CAUSES = {reason.value: reason for reason in (Reason.NO_RESPONDERS, Reason.UNAVAILABLE, Reason.OVERLOADED)}


@dataclass(slots=True, frozen=True, kw_only=True)
class Scene:
    """The surroundings of the steps of one shard at one moment.

    `now` is the database's clock. `best_priority`: the best one of which steps are ready. `budget_ms`: of flows that have none
    of their own. `replicas`: those whose facts are known, this one first. `holds`: those of the deployment. `complete`: flows
    that steps called were read, too.
    """

    shard: int
    now: int
    best_priority: int | None
    replica_timeout_us: int
    budget_ms: int
    replicas: Sequence[ReplicaFacts] = ()
    holds: Holds = NO_HOLDS
    complete: bool = True

    def flow_key(self, flow: LivingFlow) -> str:
        """The key of a flow."""
        return f"{self.shard}-{flow.flow_id}-{flow.token}"

    def task_facts(self, url: str) -> list[TaskFacts]:
        """What replicas know of a task that they hold back."""
        return [replica.tasks[url] for replica in self.replicas if url in replica.tasks]


def reason_of_cause(cause: str | None) -> Reason:
    """The reason why steps wait whose task's breaker was tripped for this cause (V4)."""
    return _CAUSES.get(cause or "", Reason.UNAVAILABLE)


def queued(wait: Wait, step: LivingStep, scene: Scene) -> None:
    """Say why a step that is due has no worker (C1, C3, C6)."""
    if step.parked == Parked.LIMIT:
        held_by_limit(wait, step)
        return
    known = scene.task_facts(step.url)
    held = [one for one in known if one.probe_at is not None]
    claiming = [one for one in scene.replicas if not one.draining]
    if held:
        wait.reason = reason_of_cause(held[0].cause)
        held_by_breaker(wait, step, scene)
    elif claiming and all(one.holds_steps for one in claiming):
        wait.reason, wait.remedy = Reason.BUS_AWAY, "dwarf-nats health"
        wait.text = "Waits for a connection to NATS: the replicas hold their steps until it is back."
    elif scene.replicas and not claiming:
        wait.because = Because.WORKERS
        wait.text = "Waits for a replica: those that run are stopping and take no more steps."
    elif rates := [one for one in known if one.rate is not None]:
        _limited(wait, step, rates)
    elif scene.best_priority is not None and scene.best_priority < step.priority:
        wait.because = Because.PRIORITY
        wait.text = (
            f"Waits behind steps of priority {scene.best_priority}, which comes before its own, {step.priority}."
        )
        wait.remedy = f"dwarf-nats flow list --priority {scene.best_priority} --status running"
    elif any(one.at_share for one in known):
        wait.because = Because.LIMIT
        wait.text = "Waits for a worker: its task has three quarters of them, the most while steps of other tasks wait."
        wait.remedy = f"dwarf-nats tasks {step.url}"
    else:
        wait.because = Because.WORKERS
        wait.text = _busy(claiming)


def held_by_limit(wait: Wait, step: LivingStep) -> None:
    """Say which limit makes a step wait (K1)."""
    name, _, key = (step.limit_slot or "").partition("/")
    whose = f" for {key}" if key else ""
    wait.limit, wait.key, wait.remedy = name, key, "dwarf-nats limit list"
    if step.limit_because == Because.RATE:
        wait.because = Because.RATE
        wait.text = f"Waits for its turn: the limit {name} lets only so many begin in a second{whose}."
    else:
        wait.because = Because.LIMIT
        wait.text = f"Waits for its turn: as many run as the limit {name} allows{whose}."


def _limited(wait: Wait, step: LivingStep, known: Sequence[TaskFacts]) -> None:
    wait.because = Because.RATE
    wait.until = min((one.opens_at for one in known if one.opens_at is not None), default=None)
    rate = sum(one.rate or 0.0 for one in known)
    wait.text = f"Waits for its turn: the task {step.url} said that it is busy, and is asked {rate:.1f} times a second."
    wait.remedy = f"dwarf-nats tasks {step.url}"


def _busy(replicas: Sequence[ReplicaFacts]) -> str:
    workers, used = sum(one.workers for one in replicas), sum(one.in_use for one in replicas)
    if used < workers:
        return "Is due, and a worker takes it in a moment."
    if not workers:
        return "Waits for a worker."
    where = "" if len(replicas) == 1 else f" of {len(replicas)} replicas"
    return (
        f"Waits for a worker: all {workers}{where} are busy. More of them (--workers), or another replica, would help."
    )


def held_by_breaker(wait: Wait, step: LivingStep, scene: Scene, *, is_message: bool = False) -> None:
    """Say why the steps of a task are held, and when it is asked again (V4). `is_message`: it publishes to a stream (N4)."""
    probes = [one.probe_at for one in scene.task_facts(step.url) if one.probe_at is not None]
    coming = [at for at in probes if at > scene.now]
    wait.until = min(coming or probes, default=None)
    if is_message and wait.reason is Reason.NO_RESPONDERS:
        wait.text = (
            f"No stream takes messages on {step.url}: its steps wait, and one of them is sent now and then to see whether one"
            " does. Add the subject to a JetStream stream, or leave `stream` out of the node."
        )
        wait.remedy = "nats stream ls"
        return
    match wait.reason:
        case Reason.NO_RESPONDERS:
            said = f"Nobody serves {step.url}"
        case Reason.OVERLOADED:
            said = f"The task {step.url} says that it is overloaded (529)"
        case _ if step.cause == "forbidden":
            said = f"NATS does not let the replica ask {step.url}"
        case _:
            said = f"The task {step.url} says that it is unavailable (503)"
    wait.text = f"{said}: its steps wait, and one of them is sent now and then to see whether it serves again."
    if not step.url.startswith(ENGINE_URL):
        wait.remedy = f"dwarf-nats tasks {step.url}"
