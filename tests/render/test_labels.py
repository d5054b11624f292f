"""D1: no text, wherever it comes from, gets out of its label or makes a diagram Mermaid would refuse."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dwarf_nats.render.graph import graph_mermaid
from dwarf_nats.render.history import history_mermaid
from dwarf_nats.render.labels import clip, escape, span
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.graph import END, Graph, Node, Transition
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from tests.render.diagrams import plain, read

ATOMS = [
    '"', "'", "#", ";", "&", "<", ">", "%%", "%%{init: {}}%%", "{", "}", "[", "]", "(", ")", "|", "`", "$$", "\\n", "\n",
    "\r", "\u2028", "\x00", "\u202e", "\ud800", "end", "subgraph", "style", "classDef", "class", "click", "linkStyle",
    "direction LR", "direction  ", "default", "graph TD", "flowchart", ":::", ":", "@{", "-->", "---", "~~", "1. ", "- ",
    "fa:fa-car", "#quot;", "#35;", "&lt;", "<br/>", "<script>", "</div>", "ﬂ°°60¶ß", "http://a.b", "END", "n1", " ", "é", "名",
]  # fmt: skip
texts = st.one_of(
    st.lists(st.sampled_from(ATOMS), max_size=8).map("".join),
    st.text(st.characters(), max_size=200),  # lone surrogates included
)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_a_label_shows_the_text_it_was_given(text: str) -> None:
    """What Mermaid decodes is the text, but for spaces of all kinds and for what no reader could see."""
    (shown,) = plain(f'"{escape(text)}"')
    assert len(shown) == len(text.replace("\u2060", ""))
    assert all(a in (b, " ", "�") for a, b in zip(shown, text.replace("\u2060", ""), strict=True))


def test_marks_that_mean_something_after_decoding_are_parted() -> None:
    for text in ("$$x$$", "fa:fa-car", "a\\nb", "~~x~~", "ﬂ°60¶ß", "http://a", "www.a", "a@b", "1. x", "- x"):
        assert "#8288;" in escape(text), text
    for text in ("$5", "a: b", "c:\\temp", "~5", "10.5", "a-b", "-5", "wwwx"):
        assert "#8288;" not in escape(text), text


def test_the_words_of_a_direction_never_stand_together() -> None:
    """Mermaid's lexer looks for `direction LR` anywhere in a line, within quotes too."""
    assert escape("direction LR") == "direction#32;LR"
    assert escape("a direction\tTB b") == "a direction#32;TB b"


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.data())
def test_no_text_gets_out_of_a_graph(names: list[str], data: st.DataObject) -> None:
    """Names, urls, conditions, fields and notes; the reader holds every line to the grammar."""
    graph = Graph(data.draw(texts))
    graph.nodes = {name: Node(name, data.draw(texts), data.draw(st.booleans())) for name in names if name != END}
    flags = st.booleans()
    for _ in range(data.draw(st.integers(0, 8))):
        source, target = (data.draw(st.sampled_from([*graph.nodes, END])) for _ in range(2))
        graph.transitions.append(
            Transition(
                source,
                target,
                data.draw(texts),
                data.draw(flags),
                data.draw(flags),
                data.draw(texts),
                data.draw(texts),
                data.draw(flags),
            )
        )
    graph.annotations = {name: data.draw(texts) for name in graph.nodes}
    diagram = read(graph_mermaid(graph))
    assert len(diagram.labels) == len(graph.nodes) + 1 + any(END in (e.source, e.target) for e in graph.transitions)
    assert len(diagram.edges) == len(graph.transitions) + (graph.entry_point in graph.nodes)


ids = st.integers(1, 9)
steps = st.lists(
    st.builds(
        Step,
        step_key=st.just("1-1-a1B2c3D4e5F6g7H8"),
        step_id=ids,
        depth=st.integers(1, 4),
        task=texts,
        attempt=st.integers(0, 2),
        status=st.sampled_from(Status),
        created_at=st.integers(0, 2**53),
        updated_at=st.integers(0, 2**53),
        started_at=st.none() | st.integers(0, 2**53),
        error=st.none() | texts.map(ErrorInfo),
        predecessor_id=st.none() | ids,
        successor_id=st.none() | ids,
        sub_workflow=st.none() | texts,
    ),
    max_size=9,
)


@settings(max_examples=100, deadline=None)
@given(steps, steps, texts)
def test_no_text_gets_out_of_a_history_and_no_edges_are_too_odd(
    outer: list[Step], inner: list[Step], workflow: str
) -> None:
    """Edges at random: cycles, edges to nowhere, several entries, a step that is its own successor."""
    for step in outer[:2]:
        step.sub_history = inner
    diagram = read(history_mermaid(outer, workflow))
    assert len(diagram.labels) >= 1 + len({step.step_id for step in outer})


def test_long_texts_are_cut_in_the_middle() -> None:
    assert clip("x" * 60, 60) == "x" * 60
    assert clip("a" * 50 + "b" * 50, 10) == "aaaaaa…bbb"
    assert clip("  a \n b\t", 10) == "a b"


def test_times_are_written_in_units_a_person_would_choose() -> None:
    ms, s, h = 1_000, 1_000_000, 3_600_000_000
    assert [
        span(us)
        for us in (
            -5, 0, 49, 50, 949, 950, 999, 12 * ms, 999_499, 999_500, 3_149 * ms, 59_949 * ms, 59_950 * ms, 60 * s, 245 * s,
            3600 * s, 2 * h + 1800 * s, 24 * h, 76 * h, 24_000 * h,
        )
    ] == [
        "0 ms", "0 ms", "0 ms", "0.1 ms", "0.9 ms", "1 ms", "1 ms", "12 ms", "999 ms", "1.0 s", "3.1 s", "59.9 s", "1 min",
        "1 min", "4 min 5 s", "1 h", "2 h 30 min", "1 d", "3 d 4 h", "1,000 d",
    ]  # fmt: skip
