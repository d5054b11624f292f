"""The task services' own account of what they executed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Execution:
    """One execution of a step. `ended` is nothing if its worker was killed, or never came to its end."""

    number: str
    worker: str
    step_key: str
    flow_key: str
    node: str
    attempt: int
    ticket: int
    child_error: str | None
    began: float
    ended: float | None = None
    said: str = ""
    undoes: str = ""
    """The key of the step that it compensates."""
    heard: str = ""
    """The id of the event it received."""

    @property
    def step_id(self) -> int:
        return int(self.step_key.split("-")[1])


@dataclass(slots=True)
class Account:
    """All executions, in the order in which they began."""

    executions: list[Execution] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    """Lines that are none."""

    @classmethod
    def read(cls, files: Iterable[Path]) -> Account:
        account = cls()
        by_number: dict[str, Execution] = {}
        for file in files:
            for text in file.read_text().splitlines():
                try:
                    line = json.loads(text)
                    if line["what"] == "begin":
                        one = by_number[line["execution"]] = Execution(
                            line["execution"], file.stem, line["step"], line["flow"], line["node"], line["attempt"],
                            line["ticket"], line["child_error"], line["at"], undoes=line["undoes"],
                        )  # fmt: skip
                        account.executions.append(one)
                    else:
                        one = by_number[line["execution"]]
                        one.ended, one.said, one.heard = line["at"], line["said"], line["heard"]
                except (ValueError, KeyError) as error:
                    account.torn.append(f"{file.name}: {text!r} ({error!r})")
        account.executions.sort(key=lambda one: one.began)
        return account
