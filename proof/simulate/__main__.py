"""`python -m proof.simulate --seeds 500`: that many fresh seeds and all of seeds.txt; `--seed N` replays one.

A seed that breaks a promise is printed with what it broke and its story; the same
seed does the same again, on any machine. The last line is one JSON object.
"""

import argparse
import json
import multiprocessing
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter

from proof.history.narrative import story
from proof.simulate.run import RunResult, simulate, simulate_briefly

SEEDS_FILE = Path(__file__).with_name("seeds.txt")
# Fresh seeds are counted from a random number below this.
_BASE_MAX = 10**9
# Of a story, what comes last is what matters.
_STORY_LINES_MAX = 400


def remembered(path: Path = SEEDS_FILE) -> list[int]:
    """The seeds that ever found a bug: a number a line, and behind it what it found."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [int(line) for line in lines if line]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 1 if a property is violated."""
    options = _options(arguments)
    if options.seed is not None:
        seeds, jobs = [options.seed], 1
    else:
        base = random.SystemRandom().randrange(_BASE_MAX) if options.base is None else options.base
        seeds, jobs = [*remembered(), *range(base, base + options.seeds)], options.jobs
        print(f"{len(remembered())} remembered seeds and {options.seeds} from {base} on", flush=True)
    began = perf_counter()
    count, violations, simulated_s = 0, 0, 0.0
    for result in _results(seeds, jobs):
        count += 1
        simulated_s += result.simulated_s
        if result.broken:
            violations += 1
        if result.broken or options.seed is not None:
            _tell(result, whole=options.seed is not None)
    seconds = perf_counter() - began
    print(
        f"{count / seconds:.1f} seeds a second, "
        f"{simulated_s / seconds:.0f} simulated seconds a second, {violations} violations"
    )
    print(
        json.dumps(
            {
                "seeds": count,
                "violations": violations,
                "simulated_s": round(simulated_s, 1),
                "seconds": round(seconds, 1),
            }
        )
    )
    return 1 if violations else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proof.simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many fresh seeds to run")
    parser.add_argument("--base", type=int, help="the first of them; random by default, and printed")
    parser.add_argument("--seed", type=int, help="replay this one, with its whole story")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes share the seeds")
    return parser.parse_args(arguments)


def _results(seeds: Sequence[int], jobs: int) -> Iterator[RunResult]:
    if jobs == 1:
        yield from map(simulate_briefly if len(seeds) > 1 else simulate, seeds)
        return
    # Spawned: gRPC's library is loaded here, and does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(simulate_briefly, seeds, chunksize=4)


def _tell(result: RunResult, *, whole: bool) -> None:
    lines = list(story(result.history))
    if not whole and len(lines) > _STORY_LINES_MAX:
        print(f"... {len(lines) - _STORY_LINES_MAX} lines before; --seed {result.seed} tells them all")
        lines = lines[-_STORY_LINES_MAX:]
    print("\n".join(lines))
    for broken in result.broken:
        print(f"seed {result.seed}: {broken}")
    print(f"replay it: python -m proof.simulate --seed {result.seed}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
