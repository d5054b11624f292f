"""Arguments, results and outcomes as dataclasses, `TypedDict`, structs and pydantic models (S1, S2, L2)."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypedDict

import msgspec
import pydantic
import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Flow, Outcome, Status, TaskError, WholeState
from dwarf_nats.sdk.arguments import json_object
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.arguments import run_task
from dwarf_nats.workflow.prepared import bind
from dwarf_nats.workflow.schema_clash import clash
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.typed_values import schema_of, uses_pydantic

WHEN = datetime(2026, 12, 1, 8, tzinfo=UTC)
WRITTEN: dict[str, Any] = {"sku": "k1", "price": 12, "at": "2026-12-01T08:00:00Z", "tags": ["new"], "size": None}
BAD = {**WRITTEN, "price": "much"}


@dataclass
class DataLine:
    sku: str
    price: int
    at: datetime
    tags: list[str]
    size: int | str | None = None


class DictLine(TypedDict):
    sku: str
    price: int
    at: datetime
    tags: list[str]
    size: int | str | None


class StructLine(msgspec.Struct):
    sku: str
    price: int
    at: datetime
    tags: list[str]
    size: int | str | None = None


class ModelLine(pydantic.BaseModel):
    sku: str
    price: int
    at: datetime
    tags: list[str]
    size: int | str | None = None


@pydantic.dataclasses.dataclass
class CheckedLine:
    sku: str
    price: Annotated[int, pydantic.Field(gt=0)]
    at: datetime
    tags: list[str]
    size: int | str | None = None


@dataclass
class Mixed:
    lines: list[ModelLine]
    note: str = ""


class StructOfModels(msgspec.Struct):
    lines: list[ModelLine]


KINDS = (DataLine, DictLine, StructLine, ModelLine, CheckedLine)


def call(state: dict[str, Any]) -> TaskCall:
    now = 1_700_000_000_000_000
    return TaskCall(
        flow_key="1-2-t",
        step_key="1-3-t",
        workflow="order",
        task="pack",
        url="pack",
        attempt=0,
        state={name: Raw(json.dumps(value).encode()) for name, value in state.items()},
        baggage=Raw(b"{}"),
        flow_created_at=now,
        flow_updated_at=now,
        deadline=now,
        budget=1.0,
    )


async def answer(function: Any, **state: Any) -> Answer:
    return await run_task(function, call(state))


def changes(answered: Answer) -> dict[str, Any]:
    assert answered.error is None, answered.error
    return {name: json.loads(bytes(value)) for name, value in answered.changes.items()}


def one_of(kind: Any) -> Any:
    return kind(sku="k1", price=12, at=WHEN, tags=["new"], size=None)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_argument_is_decoded_and_a_result_encoded_whatever_the_kind_of_type(kind: Any) -> None:
    def pack(line: kind, lines: list[kind]) -> dict[str, Any]:
        assert line == one_of(kind) == lines[0]
        return {"packed": line, "all": {"lines": lines}}

    def whole(state: WholeState[kind]) -> kind:
        assert state == one_of(kind)
        return state

    pack.__annotations__ = {"line": kind, "lines": list[kind]}
    whole.__annotations__ = {"state": WholeState[kind]}
    found = changes(await answer(pack, line=WRITTEN, lines=[WRITTEN]))
    assert found == {"packed": WRITTEN, "all": {"lines": [WRITTEN]}}
    assert changes(await answer(whole, **WRITTEN)) == WRITTEN


@pytest.mark.parametrize("kind", KINDS)
async def test_a_value_that_does_not_fit_fails_the_step_for_good_with_its_place(kind: Any) -> None:
    """L2: the error is final, since another attempt would get the same state."""

    def pack(lines: Any) -> None:
        raise AssertionError(lines)

    pack.__annotations__ = {"lines": list[kind]}
    error = (await answer(pack, lines=[WRITTEN, BAD])).error
    assert error is not None
    assert error.code == 400
    assert error.extra == {"final": True}
    assert "task pack: state field `lines`: " in error.message
    assert "price" in error.message
    assert "[1]" in error.message or "[...]" in error.message
    assert "much" not in error.message  # values do not go into logs
    missing = (await answer(pack)).error
    assert missing is not None
    assert (missing.code, missing.extra) == (400, {"final": True})


async def test_constraints_and_defaults_hold() -> None:
    def pack(
        amount: Annotated[int, pydantic.Field(gt=0)], price: Annotated[int, msgspec.Meta(gt=0)], size: int = 7
    ) -> dict[str, int]:
        return {"sum": amount + price + size}

    assert changes(await answer(pack, amount=1, price=1)) == {"sum": 9}
    for wrong in ({"amount": 0, "price": 1}, {"amount": 1, "price": 0}):
        error = (await answer(pack, **wrong)).error
        assert error is not None
        assert error.code == 400


async def test_models_stand_inside_dataclasses_unions_and_structs() -> None:
    def pack(mixed: Mixed, held: StructOfModels, either: ModelLine | int | None) -> dict[str, Any]:
        assert isinstance(mixed.lines[0], ModelLine)
        assert isinstance(held.lines[0], ModelLine)
        return {"mixed": mixed, "held": held, "either": either}

    lines = {"lines": [WRITTEN]}
    found = changes(await answer(pack, mixed=lines, held=lines, either=WRITTEN))
    assert found == {"mixed": {**lines, "note": ""}, "held": lines, "either": WRITTEN}
    error = (await answer(pack, mixed=lines, held={"lines": [BAD]}, either=3)).error
    assert error is not None
    assert "$.lines" in error.message


async def test_a_model_with_aliases_comes_back_as_it_went() -> None:
    class Renamed(pydantic.BaseModel):
        order_id: str = pydantic.Field(alias="orderId")
        amount: Decimal = Decimal("1.50")

    def pack(one: Any) -> dict[str, Any]:
        return {"one": one}

    pack.__annotations__ = {"one": Renamed}
    assert changes(await answer(pack, one={"orderId": "o"})) == {"one": {"orderId": "o", "amount": "1.50"}}


async def test_numbers_that_json_lacks_are_refused_in_a_model_too() -> None:
    class Measured(pydantic.BaseModel):
        value: float

    def pack() -> Any:
        return Measured(value=float("nan"))

    error = (await answer(pack)).error
    assert error is not None
    assert "nan" in error.message


def test_a_flow_gives_fields_and_its_whole_state_as_types() -> None:
    flow = Flow.from_call(call({"line": WRITTEN, "sku": "old"}))
    assert flow.get("line", type=ModelLine) == one_of(ModelLine)
    flow.update({name: value for name, value in WRITTEN.items() if value is not None})
    assert flow.state_as(StructLine) == one_of(StructLine)
    flow.set("price", "much")
    with pytest.raises(TaskError, match="the state: .*price"):
        flow.state_as(ModelLine)


@pytest.mark.parametrize("kind", KINDS)
def test_an_outcome_is_decoded_into_a_type(kind: Any) -> None:
    def outcome(state: dict[str, Any], **rest: Any) -> Outcome:
        return Outcome("1-2-t", "order", Status.COMPLETED, json.dumps(state).encode(), **rest)

    assert outcome(WRITTEN).as_(kind) == one_of(kind)
    with pytest.raises(BadRequest, match="the state of a completed flow of 'order': .*price"):
        outcome(BAD).as_(kind)
    with pytest.raises(BadRequest, match="left out"):
        outcome({}, truncated=True).as_(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_sends_any_of_them_as_a_state(kind: Any) -> None:
    assert json.loads(bytes(json_object(one_of(kind), "state"))) == WRITTEN  # type: ignore[arg-type]


def test_a_type_that_cannot_be_decoded_is_refused_before_the_worker_starts() -> None:
    class Odd(pydantic.BaseModel):
        one: int

    def pack(either: Any) -> None: ...

    pack.__annotations__ = {"either": list[Odd] | StructLine}
    with pytest.raises(TypeError, match="parameter 'either' has an unusable type"):
        bind(pack)


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_of_all_kinds_are_compared_alike(kind: Any) -> None:
    class Other(TypedDict):
        price: str

    class Unknown(TypedDict):
        colour: str

    own = schema_of(kind)
    assert clash(schema_of(kind, written=True), own) == ""
    assert clash(own, schema_of(Other)) == ".price is an integer, not a string"
    assert clash(own, schema_of(Unknown)) == "it has no 'colour'"
    assert clash(schema_of(list[kind]), schema_of(list[Other])) == "[].price is an integer, not a string"
    assert clash(own, schema_of(int | None)) == "it is an object, not an integer"
    assert clash(schema_of(float), schema_of(int)) == ""
    assert clash(schema_of(Any), own) == ""
    assert uses_pydantic(kind) is (kind in (ModelLine, CheckedLine))


@pytest.mark.slow
def test_pydantic_is_not_loaded_for_those_who_do_not_use_it() -> None:
    code = (
        "import sys, asyncio, json\n"
        "from dwarf_nats.sdk import Worker, Workflow, Client, Graph\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Order:\n    order_id: str\n"
        "worker = Worker()\n"
        "@worker.task('pack')\n"
        "def pack(order_id: str) -> Order: return Order(order_id)\n"
        "flow = Workflow('order', Order)\n"
        "flow.start >> pack >> 'END'\n"
        "flow.validate()\n"
        "print('pydantic' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
