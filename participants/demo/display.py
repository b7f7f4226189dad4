"""The output of the demo: notes and a progress bar while it runs, a table at the end.

Without a terminal, occasional lines replace the progress bar.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from participants.demo.summary import Summary

_LINES_PER_RUN = 4
_LINES_MAX = 10


class Display:
    """Writes to a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("placing orders"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._done = 0

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def placing(self, orders: int) -> Iterator[None]:
        """Show the progress of this number of orders during the block; `advance` counts them."""
        task = self._progress.add_task("orders", total=orders)
        self._task, self._orders, self._done = task, orders, 0
        with self._progress:
            yield

    def advance(self) -> None:
        """Count one more finished order."""
        self._done += 1
        self._progress.advance(self._task)
        every = max(1, self._orders // _LINES_PER_RUN)
        if not self._console.is_terminal and self._done % every == 0:
            self.note(f"{self._done} of {self._orders} orders")

    def show(self, summary: Summary) -> None:
        """Show the result."""
        self._console.print(_table(summary))
        for title, lines in (("unanswered", summary.unanswered), ("violation", summary.violations)):
            for line in lines[:_LINES_MAX]:
                self.note(f"{title}: {line}")
            if len(lines) > _LINES_MAX:
                self.note(f"... and {len(lines) - _LINES_MAX} more")


def _table(summary: Summary) -> Table:
    table = Table(title=f"{summary.orders} orders, seed {summary.seed}", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_column(justify="left", overflow="fold")
    for row in _rows(summary):
        if row:
            table.add_row(*row)
        else:
            table.add_section()
    return table


def _rows(summary: Summary) -> Iterator[tuple[str, str, str] | None]:
    """Return the table's rows; None ends a section."""
    yield "confirmed", f"{summary.confirmed}", ""
    yield "cancelled", f"{summary.cancelled}", ""
    for reason, count in summary.cancelled_by_reason.items():
        yield f"  {reason}", f"{count}", ""
    yield "undecided", f"{summary.undecided}", _status(good=summary.undecided == 0)
    if summary.unanswered:
        yield "unanswered", f"{len(summary.unanswered)}", _status(good=False)
    yield None
    for kill in summary.kills:
        yield (
            f"killed {kill.death.victim}",
            f"{kill.at_s:.1f} s",
            f"after {kill.after_orders} orders; back after {kill.back_after_s:.1f} s",
        )
    yield (
        "recovered",
        f"{summary.recovered}",
        f"live at a kill, ended within {summary.recovered_within_s:.1f} s of it",
    )
    yield None
    for percent, latency_ms in summary.latency_ms.items():
        yield f"latency p{percent}", f"{latency_ms:.0f} ms", ""
    yield "throughput", f"{summary.orders_per_s:.0f} /s", "orders, kills included"
    yield "all ended after", f"{summary.settled_s:.1f} s", ""
    yield None
    broken = len(summary.violations)
    yield "audit", "ok" if not broken else f"{broken}", _status(good=not broken)


def _status(*, good: bool) -> str:
    return "[green]✓[/green]" if good else "[bold red]✗[/bold red]"
