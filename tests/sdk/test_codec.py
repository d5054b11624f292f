"""The codec by itself: what is sealed and opened, keys and their rotation, and files (B9)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dwarf_nats.errors import BadRequest, Forbidden
from dwarf_nats.sdk import Codec, Graph
from dwarf_nats.sdk.codec_messages import sealed_answer, sealed_progress, sealed_request
from dwarf_nats.wire import messages as m

OLD, NEW = b"o" * 32, b"n" * 32


@pytest.fixture
def codec() -> Codec:
    return Codec({"new": NEW, "old": OLD}, ["card", "secret_*"])


def values(text: bytes) -> Any:
    return json.loads(text)


def test_the_chosen_fields_are_sealed_and_the_others_stay_as_they_are(codec: Codec) -> None:
    text = b'{"card": {"number": "4711 0815"}, "secret_pin": 12, "total": 1.10, "big": 123456789012345678901234567890}'
    sealed = codec.seal_fields(text)
    assert b"4711 0815" not in sealed, "no random text has a space"
    assert b"1.10" in sealed
    found = values(sealed)
    assert found["card"].keys() == {"$sealed", "key", "data"}
    assert (found["card"]["$sealed"], found["card"]["key"]) == ("A256GCM", "new")
    opened, names = codec.opened(sealed)
    assert values(opened) == values(text)
    assert b"123456789012345678901234567890" in opened
    assert names == {"card", "secret_pin"}


def test_the_same_value_is_sealed_differently_each_time(codec: Codec) -> None:
    """Nobody can tell equal values from different ones."""
    assert codec.seal("card", b"true") != codec.seal("card", b"true")


def test_a_null_and_what_is_sealed_already_stay(codec: Codec) -> None:
    """A null removes the field (S2)."""
    once = codec.seal_fields(b'{"card": 1, "secret_a": null}')
    assert values(once)["secret_a"] is None
    assert values(codec.seal_fields(once)) == values(once)


@pytest.mark.parametrize("text", [b"null", b"7", b'"card"', b'[{"card": 1}]'])
def test_what_has_no_fields_is_not_sealed(codec: Codec, text: bytes) -> None:
    assert codec.seal_fields(text) == text


def test_values_are_opened_wherever_they_came_to(codec: Codec) -> None:
    """Reducers put values into lists, nodes put results into fields; the nearest name is that of the field."""
    card = codec.seal("card", b'{"n": 1}').decode()
    text = f'{{"event": {{"data": {{"card": {card}}}}}, "all": {{"card": [{card}, {card}]}}, "note": "$sealed"}}'
    opened = values(codec.open_all(text.encode()))
    assert opened == {"event": {"data": {"card": {"n": 1}}}, "all": {"card": [{"n": 1}] * 2}, "note": "$sealed"}


def test_what_only_looks_sealed_stays(codec: Codec) -> None:
    text = b'{"card": {"$sealed": "A256GCM"}, "other": {"$sealed": 1, "key": "new", "data": ""}}'
    assert values(codec.open_all(text)) == values(text)


def test_an_old_key_opens_and_the_first_seals(codec: Codec) -> None:
    before = Codec({"old": OLD}, ["card"]).seal_fields(b'{"card": 1}')
    assert values(codec.open_all(before)) == {"card": 1}
    assert values(codec.seal_fields(b'{"card": 1}'))["card"]["key"] == "new"


def test_an_unknown_key_is_named(codec: Codec) -> None:
    sealed = Codec({"2019": b"x" * 16}, ["card"]).seal_fields(b'{"card": 1}')
    assert values(sealed)["card"]["$sealed"] == "A128GCM"
    with pytest.raises(Forbidden, match=r"field 'card' is sealed with the key '2019', .* \(it has 'new', 'old'\)"):
        codec.open_all(sealed)


@pytest.mark.parametrize("change", ["moved", "changed", "short", "algorithm", "key", "no text"])
def test_a_value_that_was_tampered_with_is_refused(codec: Codec, change: str) -> None:
    sealed = values(codec.seal("card", b'"secret"'))
    data = bytearray(base64.urlsafe_b64decode(sealed["data"]))
    name = "card"
    if change == "moved":
        name = "public"
    elif change == "changed":
        data[-1] ^= 1
    elif change == "short":
        del data[8:]
    elif change == "algorithm":
        sealed["$sealed"] = "A128GCM"
    elif change == "key":
        sealed["key"] = "old"
    sealed["data"] = "%%" if change == "no text" else base64.urlsafe_b64encode(bytes(data)).decode()
    with pytest.raises(BadRequest, match=rf"field '{name}' is sealed with the key '\w+', but cannot be opened"):
        codec.open_all(json.dumps({name: sealed}).encode())


def test_the_data_of_a_request_is_sealed_and_its_graph_says_more(codec: Codec) -> None:
    """Of a graph that is sent along, the fields that it declares (G11)."""
    graph = Graph("order")
    graph.add_task("pay")
    graph.declare_field("iban", "string", sealed=True)
    request = m.FlowCreateRequest(
        graph=msgspec.Raw(graph.to_json()), state=msgspec.Raw(b'{"card": 1, "iban": "DE 4711", "total": 2}')
    )
    sealed = sealed_request(codec, request).state
    assert isinstance(sealed, msgspec.Raw)
    state = values(bytes(sealed))
    assert [name for name, value in state.items() if isinstance(value, dict)] == ["card", "iban"]
    assert all(value.keys() == {"$sealed", "key", "data"} for value in (state["card"], state["iban"]))
    assert b"DE 4711" not in bytes(sealed), "no random text has a space"
    assert values(codec.open_all(bytes(sealed))) == {"card": 1, "iban": "DE 4711", "total": 2}
    resumed = sealed_request(codec, m.FlowResumeRequest(flow_key="1-2-x", data=msgspec.Raw(b'{"card": 1, "ok": true}')))
    assert isinstance(resumed.data, msgspec.Raw)
    assert values(bytes(resumed.data))["card"]["key"] == "new"


def test_the_data_of_an_answer_is_sealed_and_what_came_sealed_goes_back_so(codec: Codec) -> None:
    answer = {
        "changes": {"card": 1, "iban": "DE", "total": 2},
        "interrupt": {"card": 3},
        "subgraph": {"workflow": "w", "input": {"iban": "DE"}},
        "goto": "card",
    }
    found = values(sealed_answer(codec, json.dumps(answer).encode(), frozenset({"iban"})))
    assert found["goto"] == "card"
    assert found["changes"]["total"] == 2
    for value in (
        found["changes"]["card"],
        found["changes"]["iban"],
        found["interrupt"]["card"],
        found["subgraph"]["input"]["iban"],
    ):
        assert value["$sealed"] == "A256GCM"
    assert sealed_answer(codec, b"", frozenset()) == b""
    progress = values(sealed_progress(codec, b'{"fraction":0.5,"data":{"card":1}}', frozenset()))
    assert (progress["fraction"], progress["data"]["card"]["key"]) == (0.5, "new")


def test_a_file_has_keys_from_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARD_KEY", base64.b64encode(OLD).decode())
    (tmp_path / "third").write_text(base64.b64encode(b"t" * 16).decode() + "\n")
    file = tmp_path / "codec.yaml"
    file.write_text(
        f"keys:\n- id: '2026-11'\n  key: {base64.b64encode(NEW).decode()}\n- id: old\n  env: CARD_KEY\n"
        "- id: third\n  file: third\nfields: [card, 'secret_*']\n"
    )
    codec = Codec.from_file(file)
    assert codec.sealing_key == "2026-11"
    assert [name for name in ("card", "secret_x", "cards") if codec.chooses(name)] == ["card", "secret_x"]
    assert codec.open_all(Codec({"old": OLD}, ["card"]).seal_fields(b'{"card":1}')) == b'{"card":1}'


KEY = base64.b64encode(NEW).decode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a list `keys`"),
        ("keys: []", "a codec needs a key"),
        ("keys: [", "is neither YAML nor JSON"),
        (f"keys: [{{id: a, key: {KEY}}}]\nfelds: [card]", "unknown key 'felds'"),
        (f"keys: [{{id: a, key: {KEY}}}]\nfields: card", "fields: must be a list"),
        (f"keys: [{{id: a, key: {KEY}}}]\nfields: [1]", "are names"),
        (f"keys: [{{id: 2026, key: {KEY}}}]", 'key 1: `id` must be a text: quote it, as in id: "2026"'),
        (f"keys: [{{id: a, key: {KEY}}}, {{id: a, key: {KEY}}}]", "two keys 'a'"),
        (f"keys: [{{id: '', key: {KEY}}}]", "1 to 64 characters"),
        ("keys: [{id: a}]", "needs `id`, and one of"),
        ("keys: [a]", "must be a mapping"),
        (f"keys: [{{id: a, key: {KEY}, env: B}}]", "needs `id`, and one of"),
        ("keys: [{id: a, key: 'AAAA%'}]", "is not base64: make one with `openssl rand -base64 32`"),
        ("keys: [{id: a, key: AAAA}]", "key 'a' must have 32 bytes .*, got 3"),
        ("keys: [{id: a, env: DWARF_NOT_SET}]", "the variable DWARF_NOT_SET is not set"),
        ("keys: [{id: a, file: missing}]", "the file missing cannot be read"),
    ],
)
def test_a_bad_file_is_refused_with_the_place_and_without_a_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "codec.yaml"
    file.write_text(text)
    with pytest.raises(BadRequest, match=message) as refused:
        Codec.from_file(file)
    assert str(file) in refused.value.message
    assert KEY not in refused.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="codec.yaml cannot be read: No such file"):
        Codec.from_file(tmp_path / "codec.yaml")
