"""Plants every bug, some at a time, each in a copy of its own, and says what caught it."""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from proof.mutants.mutant import Check, Mutant, Program, StaleMutantError, mutated
from proof.mutants.planted import MUTANTS
from proof.mutants.trial import PROJECT, TrialResult, checks, copies, run, trial

# All tests at once take longer than those of one mutant.
_SOUND_TIMEOUT_S = 400.0


def main(arguments: Sequence[str] | None = None, mutants: Sequence[Mutant] = MUTANTS) -> int:
    """Returns the exit status: 1 when a bug survives, when one is stale, or when a check does not work."""
    options = _options(arguments)
    chosen = [mutant for mutant in mutants if not options.only or mutant.name in options.only]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name}: breaks: {mutant.breaks} ({mutant.file})")
        return 0
    stale = stale_ones(chosen)
    if stale:
        print("\n".join(stale))
        return 1
    return asyncio.run(_run(chosen, options.jobs, is_checked=not options.unchecked))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proof.mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--jobs", type=int, default=2, help="how many are tried at a time")
    parser.add_argument("--list", action="store_true", help="say what there is, and try nothing")
    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="take it as known that the checks pass where nothing is planted",
    )
    return parser.parse_args(arguments)


def stale_ones(mutants: Sequence[Mutant]) -> list[str]:
    """Why which of them do not fit the source."""
    reasons = []
    for mutant in mutants:
        try:
            mutated((PROJECT / mutant.file).read_text(), mutant)
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
    """Whether every check passes where nothing is planted; otherwise failing means nothing."""

    async def one(check: Check) -> TrialResult:
        copy = await free.get()
        try:
            return await run(check, copy, timeout_s=_SOUND_TIMEOUT_S)
        finally:
            free.put_nowait(copy)

    results = await asyncio.gather(*map(one, checks(mutants)))
    broken = [result for result in results if result != TrialResult()]
    for result in broken:
        print(f"A check fails where nothing is planted: {result.caught_by or result.void}", flush=True)
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
            f"SURVIVED  {mutant.name}: it breaks {mutant.breaks!r} in {mutant.file}, and nothing notices",
            flush=True,
        )
    return result


def _catchers(mutants: Sequence[Mutant], results: Sequence[TrialResult]) -> Counter[str]:
    """How many each folder of tests, or program, has caught."""
    caught: Counter[str] = Counter()
    for mutant, result in zip(mutants, results, strict=True):
        if not result.caught_by:
            continue
        check = mutant.check
        caught[check.module if isinstance(check, Program) else "/".join(check.nodes[0].split("/")[:2])] += 1
    return caught
