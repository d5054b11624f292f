"""`dwarf-nats init`: a project with a graph, a worker, a test and a compose file."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from dwarf_nats.cli.command import command
from dwarf_nats.cli.output import show
from dwarf_nats.errors import BadRequest, Conflict

FILES = {
    "README.md": "README.md",
    "requirements.txt": "requirements.txt",
    "pyproject.toml": "pyproject.toml.txt",
    ".gitignore": "gitignore.txt",
    "graphs/@NAME@.yaml": "graphs/workflow.yaml",
    "tasks.py": "tasks.py.txt",
    "test_workflow.py": "test_workflow.py.txt",
    "docker-compose.yml": "docker-compose.yml",
}
"""The files of a project, and the templates beside this module that they are made from."""
NEXT_STEPS = """
Next:
  cd {folder}
  pip install -r requirements.txt
  pytest
  dwarf-nats dev tasks.py --graphs graphs

In another terminal:
  dwarf-nats flow run {name} --state '{{"customer": "Ada", "amount": 40}}'
"""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


def register(app: typer.Typer) -> None:
    command(
        app,
        "init",
        short="Make a project: a graph, a worker, a test, a compose file.",
        example="dwarf-nats init shop\ncd shop && pytest\ndwarf-nats dev tasks.py --graphs graphs",
    )(init)


def init(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="The folder to make; its name is the workflow's.")],
) -> None:
    """Make a project that works at once, with a workflow of the same name. Nothing is overwritten."""
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{name!r} cannot be the name of a project: use a small letter, then up to 39 small letters, digits, - and _"
        )
    texts = project(name)
    if folder.exists() and not folder.is_dir():
        raise Conflict(f"{folder} is there already, and is no folder: choose another name")
    taken = [path for path in texts if (folder / path).exists()]
    if taken:
        raise Conflict(f"{folder} has {', '.join(taken)} already, and nothing is overwritten: choose another name")
    try:
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with (folder / path).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise BadRequest(f"cannot make {folder}: {error.strerror}") from None
    show(*(f"{folder / path}" for path in texts))
    show(*NEXT_STEPS.format(folder=folder, name=name).splitlines())


def project(name: str) -> dict[str, str]:
    """Return the texts of the files of a project, by their paths in its folder."""
    templates = files("dwarf_nats.cli") / "project"
    return {
        path.replace("@NAME@", name): (templates / template).read_text(encoding="utf-8").replace("@NAME@", name)
        for path, template in FILES.items()
    }
