"""`python -m proof.explore`: visits every state of each scope; the last line of standard output is JSON."""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from proof.explore.scope import Scope
from proof.explore.scopes import LARGE, SMALL
from proof.explore.search import Visit, visit
from proof.explore.system import System


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when something is broken."""
    options = _parser().parse_args(arguments)
    scopes = [*SMALL, *LARGE] if options.large else SMALL
    if options.scope:
        scopes = [scope for scope in [*SMALL, *LARGE] if scope.name == options.scope]
    started_at = time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=options.jobs, mp_context=spawn) as processes:
        visits = list(processes.map(_visit, scopes))
    for scope, seen in zip(scopes, visits, strict=True):
        tell_findings(scope, seen)
    figures = {
        "states": sum(seen.states for seen in visits),
        "violations": sum(len(seen.findings) for seen in visits),
        "steps": sum(seen.steps for seen in visits),
        "scopes": len(scopes),
        "fair_steps_max": max(seen.fair_steps_max for seen in visits),
        "seconds": round(time.monotonic() - started_at, 1),
    }
    print(json.dumps(figures))
    return 1 if figures["violations"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="proof.explore", description=__doc__)
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
        f"{scope.name}: {seen.states} states, {seen.steps} steps, {len(seen.findings)} violations, "
        f"every fair run ends after at most {seen.fair_steps_max} steps, {seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return seen


def tell_findings(scope: Scope, seen: Visit) -> None:
    for finding in seen.findings:
        print(f"scope {scope.name}: {finding.broken}")
        for number, line in enumerate(finding.path, start=1):
            print(f"{number:4}  {line}")


if __name__ == "__main__":
    sys.exit(main())
