"""`python -m bench SCENARIO`, `all` and `plot`: the command."""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import capacity, results
from bench.options import MODES, Options
from bench.report import machine
from bench.results import Entry, Results
from bench.scenarios import SCENARIOS

_ALL = "all"
_PROJECT = Path(__file__).resolve().parents[1]
_CODE = ("bench", "coordinator", "participants", "tcc")


def main() -> int:
    """Return 1 if anything failed: the figures are then worthless."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    arguments = _parser().parse_args()
    do: Callable[[argparse.Namespace], int] = arguments.do
    return do(arguments)


def _run(arguments: argparse.Namespace) -> int:
    """Run one scenario, or all of them.

    With `--save`, each result is written as soon as it is measured, beside those of other
    scenarios: a failure later on loses nothing.
    """
    # With `--json`, tables go to standard error.
    console = Console(stderr=arguments.json, width=None if sys.stderr.isatty() else 160)
    name = arguments.command
    options = _options(arguments)
    measured: dict[str, Entry] = {}
    failed = False
    for each in SCENARIOS if name == _ALL else [name]:
        began_at, began = datetime.now(UTC), time.monotonic()
        found = SCENARIOS[each](options)
        measured[each] = Entry(
            command=f"python -m bench {shlex.join(sys.argv[1:])}",
            measured_at=began_at.isoformat(timespec="seconds"),
            took_s=round(time.monotonic() - began, 1),
            commit=_commit(),
            quick=options.quick,
            machine=machine(),
            found=found.as_json(),
        )
        failed = failed or found.failed
        found.print_to(console)
        if arguments.save:
            results.write({**results.read(arguments.save), each: measured[each]}, arguments.save)
    if arguments.save:
        _draw(arguments.save)
    if arguments.json:
        print(json.dumps(results.as_json(measured) if name == _ALL else measured[name].found))
    return int(failed)


def _plot(arguments: argparse.Namespace) -> int:
    _draw(arguments.directory)
    return 0


def _capacity(arguments: argparse.Namespace) -> int:
    """Print what rates take. Return 1 if a machine has reached more than that allows."""
    found = capacity.capacities(results.read(arguments.directory))
    print(json.dumps(found) if arguments.json else capacity.table(found))
    return int(max(found["measured"].values()) > 1)


def _draw(directory: Path) -> None:
    # Loaded only here: measuring needs neither the time nor the memory of matplotlib.
    from bench import page, plots  # noqa: PLC0415

    kept: Results = results.read(directory)
    page.write(kept, plots.draw(kept, directory), directory)


def _commit() -> str | None:
    """Return the commit that is checked out, and note whether the code differs from it."""
    head = _git("rev-parse", "--short", "HEAD")
    if head.returncode != 0:
        return None
    is_same = _git("diff", "--quiet", "HEAD", "--", *_CODE).returncode == 0
    return head.stdout.strip() + ("" if is_same else " and changes")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=_PROJECT, capture_output=True, text=True, check=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure the coordinator against its baseline."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    load = _load_options()
    for name, scenario in sorted(SCENARIOS.items()):
        summary = (sys.modules[scenario.__module__].__doc__ or "").partition("\n")[0]
        one = commands.add_parser(name, parents=[load], help=summary.replace("%", "%%"))
        one.set_defaults(do=_run)
    commands.add_parser(_ALL, parents=[load], help="every scenario").set_defaults(do=_run)
    plot = commands.add_parser("plot", help="draw what `--save` has kept")
    plot.add_argument("directory", type=Path)
    plot.set_defaults(do=_plot)
    computed = commands.add_parser("capacity", help="what rates take, computed from what `--save` has kept")
    computed.add_argument("directory", type=Path, nargs="?", default=_PROJECT / "docs" / "bench")
    computed.add_argument("--json", action="store_true", help="print one JSON object")
    computed.set_defaults(do=_capacity)
    return parser


def _load_options() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object last")
    add("--seconds", type=float, default=default.seconds, help="length of one round")
    add(
        "--warm-up", dest="warm_up_s", type=float, default=default.warm_up_s, help="seconds before each round"
    )
    add("--rounds", type=int, default=default.rounds)
    add("--in-flight", type=_numbers, metavar="N[,N...]", help="concurrent transactions")
    add("--mode", dest="modes", type=_modes, default=default.modes, metavar="MODE[,MODE...]",
        help=f"of {', '.join(MODES)}")  # fmt: skip
    add("--wait-for", choices=("decision", "completion"), default=default.wait_for,
        help="what initiators wait for")  # fmt: skip
    add("--initiators", type=int, default=default.initiators, help="processes that offer load")
    add("--transactions", type=int, default=default.transactions, help="size of the backlog to be drained")
    add("--rows", type=_numbers, default=default.rows, metavar="N[,N...]",
        help="ended transactions in the log")  # fmt: skip
    add("--cells", type=int, default=default.cells, help="cells of the coordinator's log")
    add("--servers", type=int, default=default.servers, help="servers of PostgreSQL that the cells are at")
    add("--workers", type=int, default=default.workers, help="processes of the coordinator")
    add("--no-baseline", dest="baseline", action="store_false", help="leave the baseline out")
    add("--secured", action="store_true",
        help="with mutual TLS and JWT, against mutual TLS alone and the open (coordinator)")  # fmt: skip
    add("--unpinned", dest="pinned", action="store_false",
        help="coordinator and baseline on any CPU (pin_workers = false)")  # fmt: skip
    add("--data-dir", type=Path, help="directory for PostgreSQL's data; default: a temporary one")
    add("--quick", action="store_true", help="a short run that checks that everything works")
    add("--save", type=Path, metavar="DIR", help=f"keep the figures in DIR/{results.FILE}, and draw them")
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    fields = Options.__dataclass_fields__.keys() - {"quick"}
    options = Options(**{name: getattr(arguments, name) for name in fields})
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
