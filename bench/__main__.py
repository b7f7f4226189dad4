"""`python -m bench SCENARIO`, `all` and `plot`: the command."""

import argparse
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench import results
from bench.options import MODES, Options
from bench.scenarios import SCENARIOS
from bench.suite import command_line, run_scenarios
from bench.targets import check_targets, targets_table

_ALL = "all"


def main() -> int:
    """The exit status is 1 where something failed, and the numbers say nothing."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    arguments = _parser().parse_args()
    do: Callable[[argparse.Namespace], int] = arguments.do
    return do(arguments)


def _run(arguments: argparse.Namespace) -> int:
    """One scenario, or all of them."""
    # Tables go where they are read: beside the object if that is wanted.
    console = Console(stderr=arguments.json, width=None if sys.stderr.isatty() else 160)
    name = arguments.command
    measured, failed = run_scenarios(
        SCENARIOS if name == _ALL else {name: SCENARIOS[name]},
        _options(arguments),
        command=command_line(sys.argv[1:]),
        console=console,
        keep_in=arguments.save,
    )
    if name == _ALL:
        console.print(targets_table(check_targets(measured.found)))
    if arguments.save:
        _draw(arguments.save)
    if arguments.json:
        print(json.dumps(measured.as_json() if name == _ALL else measured.found[name]))
    return int(failed)


def _plot(arguments: argparse.Namespace) -> int:
    _draw(arguments.directory)
    return 0


def _draw(directory: Path) -> None:
    # Nobody who only measures waits for matplotlib, or has it in memory.
    from bench import page, plots  # noqa: PLC0415

    kept = results.read(directory)
    page.write(kept, plots.draw(kept, directory), directory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measures the coordinator against its baseline."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    load = _load_options()
    for name, scenario in sorted(SCENARIOS.items()):
        summary = (sys.modules[scenario.__module__].__doc__ or "").partition("\n")[0]
        one = commands.add_parser(name, parents=[load], help=summary.replace("%", "%%"))
        one.set_defaults(do=_run)
    every = commands.add_parser(_ALL, parents=[load], help="every scenario, and how the targets fared")
    every.set_defaults(do=_run)
    plot = commands.add_parser("plot", help="draw again what `--save` kept")
    plot.add_argument("directory", type=Path)
    plot.set_defaults(do=_plot)
    return parser


def _load_options() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(add_help=False)
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
    parser.add_argument(
        "--transactions", type=int, default=default.transactions, help="left unfinished, to be drained"
    )
    parser.add_argument(
        "--rows", type=_numbers, default=default.rows, metavar="N[,N...]", help="ended ones in the log"
    )
    parser.add_argument("--no-baseline", dest="baseline", action="store_false", help="leave the baseline out")
    parser.add_argument(
        "--unpinned",
        dest="pinned",
        action="store_false",
        help="coordinator and baseline on any CPU (pin_workers = false)",
    )
    parser.add_argument(
        "--data-dir", type=Path, help="where PostgreSQL's data go; default: a temporary directory"
    )
    parser.add_argument("--quick", action="store_true", help="a short run, to see that everything works")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help=f"keep the figures in DIR/{results.FILE}, and draw them",
    )
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    options = Options(
        seconds=arguments.seconds,
        warm_up_s=arguments.warm_up,
        rounds=arguments.rounds,
        modes=arguments.mode,
        in_flight=arguments.in_flight,
        wait_for=arguments.wait_for,
        initiators=arguments.initiators,
        baseline=arguments.baseline,
        pinned=arguments.pinned,
        transactions=arguments.transactions,
        rows=arguments.rows,
        data_dir=arguments.data_dir,
    )
    return options.as_quick() if arguments.quick else options


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(word) for word in text.split(","))
    if not all(number > 0 for number in numbers):
        raise argparse.ArgumentTypeError("numbers have to be positive")
    return numbers


def _modes(text: str) -> tuple[str, ...]:
    modes = tuple(text.split(","))
    unknown = set(modes) - set(MODES)
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown mode {', '.join(sorted(unknown))}")
    return modes


if __name__ == "__main__":
    sys.exit(main())
