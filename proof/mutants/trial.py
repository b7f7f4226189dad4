"""A mutant's trial: the bug is planted in a copy of the source, and the check is run there."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from proof.mutants.mutant import Check, Mutant, Program, Selection, command, mutated

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
TIMEOUT_S = 60.0
_TESTS_FAILED = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """How a trial went."""

    # What noticed: a test, a program's word. Empty: nothing did.
    caught_by: str = ""
    # Why the trial says nothing: the check itself did not work.
    void: str = ""


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """So many copies of the source, in a temporary directory."""
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


async def trial(mutant: Mutant, copy: Path) -> TrialResult:
    """Plants the bug in the copy, runs the check, and mends the copy again.

    Raises:
        StaleMutantError: it does not fit the source.
    """
    path = copy / mutant.file
    source = path.read_text()
    path.write_text(mutated(source, mutant))
    try:
        return await run(mutant.check, copy)
    finally:
        path.write_text(source)


async def run(check: Check, copy: Path, timeout_s: float = TIMEOUT_S) -> TrialResult:
    """Runs a check in the copy. One that takes too long has noticed that something never ends."""
    # Bytecode is told apart by size and second, which two mutants may share.
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *command(check),
            cwd=copy,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            return TrialResult(caught_by=f"the time limit of {timeout_s:g} s")
        finally:
            await _end(process)
        said.seek(0)
        words = said.read().decode(errors="replace")
    return judged(check, status, words)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends it with all that it started: they share a session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def judged(check: Check, status: int, words: str) -> TrialResult:
    """What the end of a check means."""
    if status == 0:
        return TrialResult()
    match check:
        case Selection():
            failed = _words_after("FAILED ", words.splitlines())
            if status == _TESTS_FAILED and failed:
                return TrialResult(caught_by=failed[0])
        case Program(module=module):
            if status == 1 and (violations := _violations(words)):
                return TrialResult(caught_by=f"{module}: {violations}")
    return TrialResult(void=f"the check ended with {status}: {words[-600:].strip()}")


def _words_after(mark: str, lines: Iterable[str]) -> list[str]:
    return [line.removeprefix(mark).partition(" - ")[0] for line in lines if line.startswith(mark)]


def _violations(words: str) -> str:
    """What a program of the proof found, by its last line."""
    try:
        figures = json.loads(words.splitlines()[-1])
    except (ValueError, IndexError):
        return ""
    return f"{figures['violations']} violations" if figures.get("violations") else ""


def checks(mutants: Collection[Mutant]) -> list[Check]:
    """What has to pass where nothing is planted: all tests at once, and each program."""
    nodes: dict[str, None] = {}
    programs: dict[Program, None] = {}
    for mutant in mutants:
        match mutant.check:
            case Selection():
                nodes.update(dict.fromkeys(mutant.check.nodes))
            case Program():
                programs[mutant.check] = None
    return [*([Selection(nodes=tuple(nodes))] if nodes else []), *programs]
