"""What a planted bug is: a change of one place of the source, and the check that must notice. Pure."""

import sys
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Tests by pytest's names for them, in the order in which they are run."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One of the proof's own programs, with its arguments; it ends with 1 when something is broken."""

    module: str
    arguments: tuple[str, ...] = ()


Check: TypeAlias = Selection | Program


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One planted bug."""

    name: str
    # The promise that it breaks.
    breaks: str
    # Relative to the project.
    file: str
    # Where the file says exactly this, once, it says `new` instead.
    old: str
    new: str
    check: Check


class StaleMutantError(Exception):
    """The source has changed, and the mutant does not fit it any more."""


def mutated(source: str, mutant: Mutant) -> str:
    """The file's text with the bug in it.

    Raises:
        StaleMutantError: the old text is not there exactly once, or nothing would change.
    """
    found = source.count(mutant.old)
    if found != 1 or mutant.old == mutant.new:
        raise StaleMutantError(f"{mutant.name} is stale: its old text is {found} times in {mutant.file}")
    return source.replace(mutant.old, mutant.new)


def selection(*nodes: str) -> Selection:
    """`tests/core/test_machine.py::test_x`, whole files, or folders."""
    return Selection(nodes=nodes)


def explore(scope: str) -> Program:
    """One of the explorer's scopes."""
    return Program(module="proof.explore", arguments=("--scope", scope, "--jobs", "1"))


def command(check: Check) -> tuple[str, ...]:
    """What runs the check in the copy."""
    match check:
        case Selection(nodes=nodes):
            # Its own log and cache are nobody's business; the first failure says enough.
            options = (
                "-x",
                "--tb=no",
                "-rfE",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:xdist",
                "-p",
                "no:randomly",
            )
            # The core's tests need no database, nor what it takes to have one.
            is_pure = all(node.startswith("tests/core/") for node in nodes)
            return (sys.executable, "-m", "pytest", *options, *(["--noconftest"] if is_pure else []), *nodes)
        case Program(module=module, arguments=arguments):
            return (sys.executable, "-m", module, *arguments)
