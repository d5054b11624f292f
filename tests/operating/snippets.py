"""The fenced blocks of the documents, and how the block of each language is checked without being run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import yaml

from dwarf_nats.sdk import ClaimChecks
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.decoding import decode
from dwarf_nats.wire.source_messages import source_record
from dwarf_nats.wire.task_messages import BatchedReply, BatchedRequest, TaskReply
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.source_templates import check_source
from tests.operating.command_lines import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "changes").glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r'^( *)```(\S*)(?: title="([^"\n]+)")?\n(.*?)^ *```$', re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\n+ *$")
GRAPH_REFERENCE = ROOT / "docs" / "reference" / "graph-file.md"
_OF_A_GRAPH = {
    "durability",
    "name",
    "tasks",
    "entryPoint",
    "transitions",
    "defaults",
    "fields",
    "reducers",
    "annotations",
    "fanOutToFanIn",
}
SHELL = {"bash", "case", "do", "done", "echo", "esac", "exit", "for", "printf", "step=$(dwarf-nats", "while"}
TOOLS = {"cat", "cd", "chmod", "cp", "createdb", "dwarf-nats", "make", "nats", "nats-server", "nsc", "openssl",
         "pg_dump", "pg_restore", "pip", "prometheus", "psql", "pytest", "python", "rm", "sqlite3",
         "systemctl", "examples/shell/service.sh"}  # fmt: skip
"""Programs that command lines of the documents may begin with."""
NATS_VERBS = {"object", "pub", "reply", "req", "service", "stream", "sub"}
_PROMPT = "$ "
_ASSIGNED = re.compile(r"^[A-Z_]+=\$\((.*)\)$", re.DOTALL)
"""A command whose output goes into a variable."""


@dataclass(slots=True, frozen=True)
class Block:
    """One fenced block. `line`: where it begins. `title`: shown above it. `runs`: no comment before it says why it does not."""

    page: Path
    line: int
    language: str
    text: str
    title: str = ""
    runs: bool = True

    @property
    def shown(self) -> str:
        inside = self.page.is_relative_to(ROOT)
        return f"{self.page.relative_to(ROOT).as_posix() if inside else self.page.name}:{self.line}"


def blocks(*pages: Path) -> Iterator[Block]:
    """The blocks of these pages, or of all, in order."""
    for page in pages or PAGES:
        text = page.read_text(encoding="utf-8")
        for found in _FENCE.finditer(text):
            before = text[: found.start()]
            body = re.sub(f"^{found[1]}", "", found[4], flags=re.MULTILINE)
            runs = _NOT_RUN.search(before) is None
            yield Block(page, before.count("\n") + 1, found[2], body, title=found[3] or "", runs=runs)


def fences(page: Path) -> int:
    """How many lines of a page begin or end a block."""
    return len(re.findall(r"^ *(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE))


# -- command lines


def typed(block: Block) -> list[str]:
    """The command lines of a block: of a console, what follows the prompts; a line goes on until its quotes are closed."""
    text = re.sub(r"<<'END'\n.*?^END$", "", block.text, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    found: list[str] = []
    open_line = ""
    for line in text.splitlines():
        if not open_line and block.language == "console":
            if not line.startswith(_PROMPT):
                continue
            line = line.removeprefix(_PROMPT)
        open_line = f"{open_line}\n{line}" if open_line else line
        try:
            words = shlex.split(open_line, comments=True)
        except ValueError:  # a quote is still open
            continue
        if words:
            found.append(open_line.strip())
        open_line = ""
    assert not open_line, f"{block.shown}: a quote is never closed"
    return found


def output(block: Block) -> list[str]:
    """What a console shows after the last command line."""
    lines = block.text.splitlines()
    last = max(at for at, line in enumerate(lines) if line.startswith(_PROMPT))
    return lines[last + 1 :]


def check_commands(block: Block) -> None:
    lines = typed(block)
    assert lines, f"{block.shown} has no command line"
    script = block.text if block.language == "sh" else "\n".join(lines)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for line in lines:
        words = shlex.split(_ASSIGNED.sub(r"\1", line), comments=True)
        while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*|…", words[0]):
            words = words[1:]
        if words and not re.fullmatch(r"\d|\*|\d\)|\*\)", words[0]):
            _check_command(block, words)


def _check_command(block: Block, words: list[str]) -> None:
    program = words[0]
    assert program in TOOLS | SHELL, f"{block.shown}: no rule says what {program} is"
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, f"{block.shown}: make has no target {words[1]}"
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        name, extras = re.fullmatch(r"(\.|[\w-]+)(?:\[([\w,-]+)\])?", words[2]).groups()  # type: ignore[union-attr]
        assert words[1] == "install"
        assert name in (".", project["name"])
        for extra in (extras or "").split(","):
            assert not extra or extra in project["optional-dependencies"], f"{block.shown}: there is no extra {extra}"
    elif program == "python":
        assert words[1:3] == ["-m", "bench"] or words[1].endswith(".py")
    elif program == "nats":
        assert words[1] in NATS_VERBS, f"{block.shown}: nats has no command {words[1]}"


# -- the other languages


def check_python(block: Block) -> None:
    """It is a module as it stands: nothing awaits outside a function."""
    compile(block.text, block.shown, "exec")


def check_json(block: Block) -> None:
    value = json.loads(block.text)
    if isinstance(value, list):
        _check_batch(value)
    elif servers := value.get("mcpServers") or value.get("servers"):
        for server in servers.values():
            _check_command(block, [server["command"], *server["args"]])
    elif "replica" in value:
        msgspec.convert(value, m.HealthReply)
    elif "error" in value:
        msgspec.convert(value, m.ErrorReply)
    elif "stepKey" in value:
        msgspec.json.decode(block.text.encode(), type=m.Pause)
    elif "waits" in value:
        msgspec.json.decode(block.text.encode(), type=m.ExplanationReply)
    elif "name" in value or "fields" in value:
        _check_part_of_graph(value)
    else:
        assert {"time", "level", "logger", "message"} <= set(value), f"{block.shown}: no rule says what this is"


def _check_batch(members: list[dict[str, Any]]) -> None:
    """Requests or answers of several steps in one message; unknown fields are refused."""
    for member in members:
        if "stepKey" in member:
            request = msgspec.json.decode(json.dumps(member), type=BatchedRequest)
            assert member.keys() <= set(request.__struct_encode_fields__)
        else:
            msgspec.json.decode(json.dumps(member), type=BatchedReply)


def _check_part_of_graph(value: dict[str, Any]) -> None:
    """A node, or the declared fields, of a graph that has nothing else."""
    name = value.get("name", "a")
    graph = {"name": "g", "tasks": [value if "name" in value else {"name": name}]}
    Graph.from_values({**graph, "fields": value.get("fields"), "transitions": [{"from": name, "to": "END"}]}).validate()


def graph_with(part: dict[str, Any]) -> Graph:
    """A graph with a node, an edge, or keys of a graph, and as little else as possible."""
    nodes: list[dict[str, Any]] = [{"name": "a"}, {"name": "b"}]
    edges: list[dict[str, Any]] = [{"from": "a", "to": "b"}, {"from": "b", "to": "END"}]
    if part.get("fanIn"):
        edges = [
            {"from": "a", "to": "b", "forEach": "items"},
            {"from": "b", "to": part["name"]},
            {"from": part["name"], "to": "END"},
        ]
        return Graph.from_values({"name": "g", "tasks": [*nodes, part], "transitions": edges})
    if "from" in part:
        each = part.get("forEach")
        nodes = nodes[:1] if part["to"] == "END" else nodes
        nodes = [{"name": "a"}, {"name": "b"}, {"name": "meet", "fanIn": True}] if each else nodes
        edges = (
            [part, {"from": "b", "to": "meet"}, {"from": "meet", "to": "END"}]
            if each
            else [part, *edges[1:]][: len(nodes)]
        )
        return Graph.from_values({"name": "g", "tasks": nodes, "transitions": edges})
    if not set(part) - _OF_A_GRAPH and not (set(part) == {"name"} and part["name"] != "shop.order"):
        named = part.get("tasks") or nodes
        chain = [{"from": one["name"], "to": after["name"]} for one, after in pairwise(named)]
        last = {"from": named[-1]["name"], "to": "END"}
        return Graph.from_values({"name": "g", "tasks": named, "transitions": [*chain, last], **part})
    return Graph.from_values({"name": "g", "tasks": [part], "transitions": [{"from": part["name"], "to": "END"}]})


def check_yaml(block: Block) -> None:
    value = yaml.safe_load(block.text)
    assert isinstance(value, dict)
    if block.page == GRAPH_REFERENCE and not {"entryPoint", "transitions"} <= set(value):
        graph_with(value).validate()
    elif "entryPoint" in value:
        Graph.from_json(json.dumps(value).encode()).validate()
    elif "keys" in value:  # a codec
        assert set(value) <= {"keys", "fields"}, block.shown
        assert all(one.keys() - {"key", "file", "env"} == {"id"} for one in value["keys"]), block.shown
    elif "over" in value:
        ClaimChecks(**value)
    elif "subject" in value:
        check_source(source_record(decode(m.SourcePutRequest, json.dumps(value).encode())))
    else:
        assert set(value) <= {"receivers", "processors", "exporters", "service", "rule_files", "scrape_configs"}, (
            block.shown
        )


def check_sql(block: Block) -> None:
    """Statements end with a semicolon, and a function that is called is one of this schema."""
    assert block.text.rstrip().endswith(";")
    assert set(re.findall(r"\bdwarf_\w+", block.text)) <= {"dwarf_enqueue"}, block.shown


def check_toml(block: Block) -> None:
    tomllib.loads(block.text)


def check_text(block: Block) -> None:
    """Nothing to type; the replies of task services in it are replies."""
    for line in block.text.splitlines():
        assert not line.startswith(("dwarf-nats ", "nats ", _PROMPT)), (
            f"{block.shown}: what is typed is `sh` or `console`"
        )
        if line.startswith("reply  "):
            msgspec.json.decode(line.removeprefix("reply").strip().encode(), type=TaskReply)


def check_js(block: Block) -> None:
    node = shutil.which("node")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "snippet.mjs").write_text(block.text)
        if node is not None:
            subprocess.run([node, "--check", str(Path(folder) / "snippet.mjs")], check=True)
    assert block.text.count("{") == block.text.count("}")


def check_nats(block: Block) -> None:
    """Part of a configuration of nats-server."""
    words = re.findall(r"^(\w+)[: ]", block.text, re.MULTILINE)
    assert words
    assert set(words) <= {"allow_responses", "authorization", "publish", "subscribe", "tls"}, block.shown
    assert block.text.count("{") == block.text.count("}")


def check_dockerfile(block: Block) -> None:
    command = json.loads(block.text.removeprefix("HEALTHCHECK CMD "))
    assert command[:2] == ["dwarf-nats", "health"]


def check_mermaid(block: Block) -> None:
    assert block.text.split()[0] in ("stateDiagram-v2", "flowchart")


CHECKS: dict[str, Callable[[Block], Any]] = {
    "console": check_commands,
    "dockerfile": check_dockerfile,
    "js": check_js,
    "json": check_json,
    "mermaid": check_mermaid,
    "nats": check_nats,
    "python": check_python,
    "sh": check_commands,
    "text": check_text,
    "toml": check_toml,
    "sql": check_sql,
    "yaml": check_yaml,
}
"""A block of any other language, or of none, has no rule and fails."""
