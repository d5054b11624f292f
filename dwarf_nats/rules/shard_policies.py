"""Which shards take new flows, and how many of them (O17). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from dwarf_nats.errors import BadRequest

KIND = "shard"
"""The kind of definition; its name is the number of the shard."""
LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1_000.0


class ShardPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The policy of one shard. A `cordoned` one takes no new flows; `weight`: its share of them, beside those of the others."""

    cordoned: bool = False
    weight: float = 1.0


DEFAULT_POLICY = ShardPolicy()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ShardPolicy).decode


def write_policy(policy: ShardPolicy) -> str:
    """A policy as it is kept."""
    return _encode(policy).decode()


def read_policy(body: str) -> ShardPolicy:
    """A policy that was kept. Raises `ValueError`."""
    return _decode(body.encode())


def changed_policy(before: ShardPolicy, *, cordoned: bool | None, weight: float | None) -> ShardPolicy:
    """A policy with what is given in place of what it was. Raises `BadRequest`."""
    if weight is not None and not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise BadRequest(
            f"weight is {weight}: use {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}; to send no new flows there, cordon the shard"
        )
    return ShardPolicy(
        cordoned=before.cordoned if cordoned is None else cordoned,
        weight=before.weight if weight is None else float(weight),
    )


def check_one_is_open(numbers: Iterable[int], policies: Mapping[int, ShardPolicy]) -> None:
    """Raise `BadRequest` if every one of these shards would be cordoned: then no flow could be created."""
    if all(policies.get(number, DEFAULT_POLICY).cordoned for number in numbers):
        raise BadRequest("no shard would take new flows any more: leave one of them open, or add one first")
