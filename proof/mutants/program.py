"""Plant every bug, each in its own copy of the source, and report what caught it."""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from proof.mutants.mutant import Check, Mutant, Program, StaleMutantError
from proof.mutants.planted import MUTANTS
from proof.mutants.trial import PROJECT, TrialResult, checks, copies, located, run, trial

# The tests of all mutants take longer than those of one.
_SOUND_TIMEOUT_S = 400.0


def main(arguments: Sequence[str] | None = None, mutants: Sequence[Mutant] = MUTANTS) -> int:
    """Return the exit status: 1 if a bug survives, if one is stale, or if a check does not work."""
    options = _options(arguments)
    chosen = [mutant for mutant in mutants if not options.only or mutant.name in options.only]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name}: breaks: {mutant.breaks} ({mutant.definition})")
        return 0
    stale = stale_ones(chosen)
    if stale:
        print("\n".join(stale))
        return 1
    return asyncio.run(_run(chosen, options.jobs, is_checked=not options.unchecked))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proof.mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at a time")
    parser.add_argument("--list", action="store_true", help="list the planted bugs, and exit")
    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="skip the run of the checks without a planted bug",
    )
    return parser.parse_args(arguments)


def stale_ones(mutants: Sequence[Mutant]) -> list[str]:
    """Return why some of them do not fit the source."""
    reasons = []
    for mutant in mutants:
        try:
            located(mutant, PROJECT)
        except StaleMutantError as error:
            reasons.append(str(error))
    return reasons


async def _run(mutants: Sequence[Mutant], jobs: int, *, is_checked: bool) -> int:
    began = time.monotonic()
    with copies(jobs) as sources:
        free: asyncio.Queue[Path] = asyncio.Queue()
        for source in sources:
            free.put_nowait(source)
        if is_checked and not await _are_checks_sound(mutants, free):
            return 1
        results = await asyncio.gather(*(_try(mutant, free) for mutant in mutants))
    figures = {
        "planted": len(mutants),
        "caught": sum(bool(result.caught_by) for result in results),
        "by": dict(_catchers(mutants, results).most_common()),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(figures))
    return 0 if figures["caught"] == figures["planted"] else 1


async def _are_checks_sound(mutants: Sequence[Mutant], free: "asyncio.Queue[Path]") -> bool:
    """Return whether every check passes without a planted bug; otherwise a failure proves nothing."""

    async def one(check: Check) -> TrialResult:
        copy = await free.get()
        try:
            return await run(check, copy, timeout_s=_SOUND_TIMEOUT_S)
        finally:
            free.put_nowait(copy)

    results = await asyncio.gather(*map(one, checks(mutants)))
    broken = [result for result in results if result != TrialResult()]
    for result in broken:
        print(f"A check fails without a planted bug: {result.caught_by or result.void}", flush=True)
    return not broken


async def _try(mutant: Mutant, free: "asyncio.Queue[Path]") -> TrialResult:
    copy = await free.get()
    try:
        began = time.monotonic()
        result = await trial(mutant, copy)
    finally:
        free.put_nowait(copy)
    seconds = time.monotonic() - began
    if result.caught_by:
        print(f"caught    {mutant.name}: by {result.caught_by} ({seconds:.0f} s)", flush=True)
    elif result.void:
        print(f"NO TRIAL  {mutant.name}: {result.void}", flush=True)
    else:
        print(
            f"SURVIVED  {mutant.name}: it breaks {mutant.breaks!r} in {mutant.definition}; no check failed",
            flush=True,
        )
    return result


def _catchers(mutants: Sequence[Mutant], results: Sequence[TrialResult]) -> Counter[str]:
    """Count what each folder of tests, or program, has caught."""
    caught: Counter[str] = Counter()
    for mutant, result in zip(mutants, results, strict=True):
        if not result.caught_by:
            continue
        check = mutant.check
        caught[check.module if isinstance(check, Program) else "/".join(check.nodes[0].split("/")[:2])] += 1
    return caught
