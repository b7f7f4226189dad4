"""A trial: a bug is planted in a copy of the source, and its check runs there."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from asyncio.subprocess import STDOUT
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from participants.child_process import start_process
from proof.mutants.mutant import (
    Check,
    Mutant,
    Program,
    Selection,
    StaleMutantError,
    command,
    mutated,
)

PROJECT = Path(__file__).resolve().parents[2]
# What the checks need, beside each other as in the project.
_COPIED = (
    "coordinator",
    "tcc",
    "participants",
    "proof",
    "tests",
    "protos",
    "deploy",
    "docs",
    "pyproject.toml",
)
# Where planted bugs may be.
_SEARCHED = ("coordinator", "tcc")
TIMEOUT_S = 60.0
_TESTS_FAILED = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """The result of a trial."""

    # The test or program that failed. Empty: none did.
    caught_by: str = ""
    # Why the trial is void: the check itself did not work.
    void: str = ""


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """Make `count` copies of the source in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="tcc-mutants-") as home:
        yield [_copy(Path(home) / str(number)) for number in range(count)]


def _copy(target: Path) -> Path:
    for name in _COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / name)
    return target


def located(mutant: Mutant, root: Path) -> tuple[Path, str]:
    """Find the one place under `root` that the mutant edits. Return its file and the text with the bug.

    Raises:
        StaleMutantError: there is not exactly one place.
    """
    found = []
    places = 0
    for package in _SEARCHED:
        for path in sorted((root / package).rglob("*.py")):
            count, text = mutated(path.read_text(), mutant)
            places += count
            if count:
                found.append((path, text))
    if places != 1:
        raise StaleMutantError(
            f"{mutant.name} is stale: `{mutant.definition}` holds its snippet {places} times"
        )
    return found[0]


async def trial(mutant: Mutant, copy: Path) -> TrialResult:
    """Plant the bug in the copy, run the check, and restore the copy.

    Raises:
        StaleMutantError: the mutant does not fit the source.
    """
    path, text = located(mutant, copy)
    source = path.read_text()
    path.write_text(text)
    try:
        return await run(mutant.check, copy)
    finally:
        path.write_text(source)


async def run(check: Check, copy: Path, timeout_s: float = TIMEOUT_S) -> TrialResult:
    """Run a check in the copy. A check that exceeds the time limit has caught something that never ends."""
    # Python tells bytecode apart by size and second, which two mutants may share.
    environment = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile() as output:
        process = await start_process(
            *command(check), directory=copy, environment=environment, stdout=output, stderr=STDOUT
        )
        try:
            status = await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            return TrialResult(caught_by=f"the time limit of {timeout_s:g} s")
        finally:
            await _end(process)
        output.seek(0)
        text = output.read().decode(errors="replace")
    return judged(check, status, text)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process and all that it started: they share a session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def judged(check: Check, status: int, output: str) -> TrialResult:
    """Judge a check by its exit status and its output."""
    if status == 0:
        return TrialResult()
    match check:
        case Selection():
            failed = _after("FAILED ", output.splitlines())
            if status == _TESTS_FAILED and failed:
                return TrialResult(caught_by=failed[0])
        case Program(module=module):
            if status == 1 and (violations := _violations(output)):
                return TrialResult(caught_by=f"{module}: {violations}")
    return TrialResult(void=f"the check ended with {status}: {output[-600:].strip()}")


def _after(mark: str, lines: Iterable[str]) -> list[str]:
    return [line.removeprefix(mark).partition(" - ")[0] for line in lines if line.startswith(mark)]


def _violations(output: str) -> str:
    """Return what a program of the proof found, by its last line."""
    try:
        figures = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return ""
    return f"{figures['violations']} violations" if figures.get("violations") else ""


def checks(mutants: Collection[Mutant]) -> list[Check]:
    """Return what must pass without a planted bug: all tests at once, and each program."""
    nodes: dict[str, None] = {}
    programs: dict[Program, None] = {}
    for mutant in mutants:
        match mutant.check:
            case Selection():
                nodes.update(dict.fromkeys(mutant.check.nodes))
            case Program():
                programs[mutant.check] = None
    return [*([Selection(nodes=tuple(nodes))] if nodes else []), *programs]
