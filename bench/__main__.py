"""`python -m bench SCENARIO`: the command."""

import argparse
import json
import signal
import sys
from pathlib import Path

from rich.console import Console

from bench.options import MODES, Options
from bench.scenarios import SCENARIOS


def main() -> int:
    """Runs one scenario. The exit status is 1 where something failed, and the numbers say nothing."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    arguments = _parser().parse_args()
    found = SCENARIOS[arguments.scenario](_options(arguments))
    # Tables go where they are read: beside the object if that is wanted.
    found.print_to(Console(stderr=arguments.json, width=None if sys.stderr.isatty() else 160))
    if arguments.json:
        print(json.dumps(found.as_json()))
    return int(found.failed)


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(prog="bench", description="Measures the coordinator against its floor.")
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of one round")
    parser.add_argument("--warm-up", type=float, default=default.warm_up_s, help="seconds before each round")
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument(
        "--in-flight",
        type=_numbers,
        default=default.in_flight,
        metavar="N[,N...]",
        help="transactions at once",
    )
    parser.add_argument(
        "--mode", type=_modes, default=default.modes, metavar="MODE[,MODE...]", help=f"of {', '.join(MODES)}"
    )
    parser.add_argument(
        "--wait-for",
        choices=("decision", "completion"),
        default=default.wait_for,
        help="what initiators wait for",
    )
    parser.add_argument(
        "--initiators", type=int, default=default.initiators, help="processes that offer load"
    )
    parser.add_argument("--no-floor", dest="floor", action="store_false", help="leave the floor out")
    parser.add_argument(
        "--data-dir", type=Path, help="where PostgreSQL's data go; default: a temporary directory"
    )
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        seconds=arguments.seconds,
        warm_up_s=arguments.warm_up,
        rounds=arguments.rounds,
        modes=arguments.mode,
        in_flight=arguments.in_flight,
        wait_for=arguments.wait_for,
        initiators=arguments.initiators,
        floor=arguments.floor,
        data_dir=arguments.data_dir,
    )


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(word) for word in text.split(","))
    if not all(number > 0 for number in numbers):
        raise argparse.ArgumentTypeError("at least one must be under way")
    return numbers


def _modes(text: str) -> tuple[str, ...]:
    modes = tuple(text.split(","))
    unknown = set(modes) - set(MODES)
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown mode {', '.join(sorted(unknown))}")
    return modes


if __name__ == "__main__":
    sys.exit(main())
