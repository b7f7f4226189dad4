"""Visits every state of each scope, some at a time; the last line of standard output is JSON.

A module of its own: processes that are spawned find nothing in `__main__`.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from coordinator.core.model import BranchSpec
from proof.explore.scope import Scope
from proof.explore.scopes import LARGE, SMALL
from proof.explore.search import Visit, visit
from proof.explore.system import System


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 1 if a property is violated."""
    options = _parser().parse_args(arguments)
    scopes = [*SMALL, *LARGE] if options.large else SMALL
    if options.scope:
        scopes = [scope for scope in [*SMALL, *LARGE] if scope.name == options.scope]
    started_at = time.monotonic()
    seen = visits(scopes, options.jobs)
    for scope, visited in zip(scopes, seen, strict=True):
        _print_counterexamples(scope, visited)
    figures = {
        "states": sum(visited.states for visited in seen),
        "violations": sum(len(visited.counterexamples) for visited in seen),
        "steps": sum(visited.steps for visited in seen),
        "scopes": len(scopes),
        "kinds": sorted({_kind(spec) for scope in scopes for spec in scope.branches}),
        "fair_steps_max": max(visited.fair_steps_max for visited in seen),
        "seconds": round(time.monotonic() - started_at, 1),
    }
    print(json.dumps(figures))
    return 1 if figures["violations"] else 0


def _kind(spec: BranchSpec) -> str:
    return "CHECK_BACK" if spec.check_back else spec.kind.name


def visits(scopes: Sequence[Scope], jobs: int) -> list[Visit]:
    """Each scope in a process, `jobs` at a time."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=spawn) as processes:
        return list(processes.map(_visit, scopes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="proof.explore", description="visits every state of small systems")
    parser.add_argument("--large", action="store_true", help="the large scopes too: millions of states")
    parser.add_argument("--scope", choices=[scope.name for scope in [*SMALL, *LARGE]], help="this one alone")
    parser.add_argument("--jobs", type=int, default=2, help="how many scopes are visited at a time")
    return parser


def _visit(scope: Scope) -> Visit:
    """In a process of its own."""
    started_at = time.monotonic()

    def progress(states: int, waiting: int) -> None:
        print(f"{scope.name}: {states} states visited, {waiting} waiting", file=sys.stderr, flush=True)

    seen = visit(System(scope), progress=progress)
    seconds = time.monotonic() - started_at
    print(
        f"{scope.name}: {seen.states} states, {seen.steps} steps, {len(seen.counterexamples)} violations, "
        f"every fair run ends after at most {seen.fair_steps_max} steps, {seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return seen


def _print_counterexamples(scope: Scope, seen: Visit) -> None:
    for finding in seen.counterexamples:
        print(f"scope {scope.name}: {finding.broken}")
        for number, line in enumerate(finding.path, start=1):
            print(f"{number:4}  {line}")
