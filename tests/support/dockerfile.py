"""The instructions of a Dockerfile, as far as deploy/Dockerfile needs it."""

import json
import shlex
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    """One instruction."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def instructions(path: Path) -> list[Instruction]:
    """Return all instructions in order, without comments."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [Instruction(*line.partition(" ")[::2]) for line in joined.splitlines()]


def stages(path: Path) -> list[list[Instruction]]:
    """Return the instructions of each stage, which begins with FROM."""
    found: list[list[Instruction]] = []
    for instruction in instructions(path):
        if instruction.name == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def only(stage: list[Instruction], name: str) -> Instruction:
    """Return the only instruction of this name."""
    [found] = [instruction for instruction in stage if instruction.name == name]
    return found


def command(stage: list[Instruction], name: str) -> list[str]:
    """Return the command of CMD, ENTRYPOINT or HEALTHCHECK, given as a JSON array."""
    text = only(stage, name).text
    words: list[str] = json.loads(text[text.index("[") :])
    return words
