"""The output of the demo: a live line while it runs, what was survived at the end.

Without a terminal, occasional lines replace the live one.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from participants.demo.initiator import OrderResult
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
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._orders = self._done = self._confirmed = 0
        self._started = 0.0

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def placing(self, orders: int) -> Iterator[None]:
        """Show the progress of this number of orders during the block; `advance` counts them."""
        self._task = self._progress.add_task("orders", total=orders, status="")
        self._orders, self._done, self._confirmed = orders, 0, 0
        self._started = time.monotonic()
        with self._progress:
            yield

    def advance(self, result: OrderResult) -> None:
        """Count one more finished order."""
        self._done += 1
        self._confirmed += result.confirmed is True
        self._progress.update(self._task, advance=1, status=self._status())
        every = max(1, self._orders // _LINES_PER_RUN)
        if not self._console.is_terminal and self._done % every == 0:
            self.note(f"{self._done} of {self._orders} orders: {self._status()}")

    def _status(self) -> str:
        per_s = self._done / (time.monotonic() - self._started)
        return f"{self._confirmed} confirmed, {self._done - self._confirmed} not, {per_s:.0f}/s"

    def show(self, summary: Summary) -> None:
        """Show the result."""
        self._console.print(_table(summary))
        for title, lines in (("unanswered", summary.unanswered), ("violation", summary.violations)):
            for line in lines[:_LINES_MAX]:
                self.note(f"{title}: {line}")
            if len(lines) > _LINES_MAX:
                self.note(f"... and {len(lines) - _LINES_MAX} more")


def _table(summary: Summary) -> Table:
    table = Table(title=_headline(summary), title_justify="left", show_header=False, box=None, padding=(0, 2))
    table.add_column(justify="left")
    table.add_column(justify="left", overflow="fold")
    for name, text in _rows(summary):
        table.add_row(name, text)
    return table


def _headline(summary: Summary) -> str:
    counts = f"{summary.orders} orders, {len(summary.kills)} processes killed (seed {summary.seed})"
    return f"{counts}: " + (
        "[green]nothing was lost[/green]" if summary.is_well else "[bold red]FAILED[/bold red]"
    )


def _rows(summary: Summary) -> Iterator[tuple[str, str]]:
    for kill in summary.kills:
        yield (
            "survived",
            (
                f"kill -9 of {kill.death.victim} after {kill.after_orders} orders, "
                f"back in {kill.back_after_s:.1f} s"
            ),
        )
    yield (
        "recovered",
        (
            f"{summary.recovered} interrupted transactions, "
            f"ended within {summary.recovered_within_s:.1f} s of a kill"
        ),
    )
    yield "undecided", f"{summary.undecided} {_mark(good=summary.undecided == 0)}"
    if summary.unanswered:
        yield "unanswered", f"{len(summary.unanswered)} {_mark(good=False)}"
    yield "audit", _audit(summary)
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.cancelled_by_reason.items())
    yield "confirmed", f"{summary.confirmed}"
    yield "cancelled", f"{summary.cancelled}" + (f": {reasons}" if reasons else "")
    if summary.effects:
        counts = summary.effects
        yield (
            "effects",
            f"{counts['charged']} charged, {counts['refunded']} refunded, {counts['receipts']} receipts",
        )
        yield (
            "local first",
            f"{counts['local_commits']} orders committed first, {summary.check_backs} decided by check-back",
        )
        if "shipments" in counts:
            yield "shipped", f"{counts['shipments']} orders, through Redis"
    yield "when calm", f"{_per_s(summary.rates.calm)}"
    yield "under kills", f"{_per_s(summary.rates.under_kills)}"
    if summary.latency_ms:
        yield "latency", ", ".join(f"p{percent} {ms:.0f} ms" for percent, ms in summary.latency_ms.items())
    yield "took", f"{summary.settled_s:.1f} s until every transaction had ended"


def _audit(summary: Summary) -> str:
    if summary.violations:
        return f"{len(summary.violations)} violations {_mark(good=False)}"
    return f"the databases and the log agree on every order {_mark(good=True)}"


def _per_s(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.0f} orders/s"


def _mark(*, good: bool) -> str:
    return "[green]✓[/green]" if good else "[bold red]✗[/bold red]"
