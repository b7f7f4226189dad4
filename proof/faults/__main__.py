"""Kills real processes at every durable step, breaks what is between them, and judges what comes of it.

Progress goes to standard error; the last line of standard output is one JSON object.
The exit status is 1 if anything was wrong; logs, data and history are then kept.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Servers are started while gRPC runs here, and its fork handlers crash the child now and then.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Connections that end are what this is about.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from proof.faults.kills import kill_everywhere
from proof.faults.plan import failpoints
from proof.faults.scenarios import DISK_FULL, SCENARIOS, disk_full
from proof.faults.system import DISK
from proof.faults.testbed import Testbed, running_testbed
from proof.history.narrative import story
from proof.history.recorder import write

_TIMES_CI, _TIMES_LONG = 3, 20
_CRASH_CI_S, _CRASH_LONG_S = 120.0, 600.0
_SHOWN_MAX = 30
_INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    options = _options()
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {what}", file=sys.stderr, flush=True)

    # Short: the path of a socket has to fit in about 100 bytes.
    home = Path(tempfile.mkdtemp(prefix="tcc-faults-"))
    if options.inside_tmpfs:
        disk_full.mount(home / DISK)
    say(f"seed {options.seed}, files in {home}")
    try:
        figures, wrong = asyncio.run(_run(options, home, say))
    except (KeyboardInterrupt, asyncio.CancelledError):
        shutil.rmtree(home, ignore_errors=options.inside_tmpfs)
        say("interrupted")
        return _INTERRUPTED
    figures = {**figures, "violations": len(wrong), "seconds": round(time.monotonic() - started, 1)}
    for what in wrong[:_SHOWN_MAX]:
        print(f"VIOLATION {what}", file=sys.stderr)
    if wrong:
        print(f"logs, data and history are kept in {home}", file=sys.stderr)
    else:
        if options.inside_tmpfs:
            disk_full.unmount(home / DISK)
        shutil.rmtree(home)
    print(json.dumps(figures), flush=True)
    return 1 if wrong else 0


async def _run(
    options: argparse.Namespace, home: Path, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    names = options.points
    scenarios = options.scenarios
    kills: Counter[str] = Counter()
    done: dict[str, Any] = {}
    async with running_testbed(home, random.Random(options.seed), say) as testbed:
        try:
            kills = await kill_everywhere(testbed, names, times=options.times)
            testbed.verifier.violations += [
                f"failpoint {name} killed {kills[name]} times of {options.times}"
                for name in names
                if kills[name] < options.times
            ]
            for name in scenarios:
                done[name] = await _scenario(name, testbed, options)
            await testbed.verifier.verify_all()
        except Exception as error:  # noqa: BLE001 - reported with the rest
            # Everything is kept and reported, as with any other violation.
            traceback.print_exc()
            testbed.verifier.violations.append(f"the run itself failed: {error!r}")
        figures = {
            "failpoints": len(kills),
            "kills": sum(kills.values()),
            "scenarios": done,
            "orders": testbed.placed,
            "intrusions": testbed.intrusions,
            "transactions": testbed.verifier.transactions,
            "seed": options.seed,
        }
        wrong = list(testbed.verifier.violations)
        if wrong:
            write(home / "history.jsonl", testbed.verifier.history)
            (home / "story.txt").write_text("\n".join(story(testbed.verifier.history)))
    return figures, wrong


async def _scenario(name: str, testbed: Testbed, options: argparse.Namespace) -> dict[str, Any]:
    if name == DISK_FULL and not options.inside_tmpfs:
        figures = await disk_full.beside(testbed.say)
        testbed.verifier.violations += figures.pop("wrong", [])
        return figures
    started = time.monotonic()
    figures = await SCENARIOS[name](testbed, options)
    await testbed.settle(name)
    testbed.say(f"scenario {name}: {figures} in {time.monotonic() - started:.0f} s")
    return figures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proof.faults", description=__doc__)
    known = failpoints()
    parser.add_argument("--times", type=int, help=f"kills at each failpoint; default: {_TIMES_CI}")
    parser.add_argument("--long", action="store_true", help="many more kills and crashes")
    parser.add_argument("--points", help="these failpoints only, with commas; none: no kills; default: all")
    parser.add_argument("--scenarios", help=f"with commas; none: none; default: {','.join(SCENARIOS)}")
    parser.add_argument("--crash-s", type=float, help="how long PostgreSQL keeps crashing, in seconds")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of orders and choices")
    parser.add_argument("--inside-tmpfs", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.times = options.times or (_TIMES_LONG if options.long else _TIMES_CI)
    options.crash_s = options.crash_s or (_CRASH_LONG_S if options.long else _CRASH_CI_S)
    options.points = _chosen(parser, options.points, known)
    options.scenarios = _chosen(parser, options.scenarios, list(SCENARIOS))
    return options


def _chosen(parser: argparse.ArgumentParser, wanted: str | None, known: list[str]) -> list[str]:
    if wanted is None:
        return known
    chosen = [name for name in wanted.split(",") if name and name != "none"]
    unknown = set(chosen) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
