"""`tccctl watch`: a live view of the whole system on a terminal."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tccctl.blocks import Block, TextBlock, rich_group
from tccctl.command import command
from tccctl.failures import Failure
from tccctl.formatting import harmless, seconds_of
from tccctl.output import OutputFormat
from tccctl.session import Session
from tccctl.stats import stats_blocks
from tccctl.transaction_views import transaction_table
from tccctl.transactions import without_payloads

_STUCK_SHOWN = 10
_LEAVE = {"q", "Q", "\x03", "\x04", "\x1b"}


def register(app: typer.Typer) -> None:
    """Register the command."""
    examples = ["tccctl watch", "tccctl watch --every 5", "tccctl watch --once"]
    command(app, "watch", examples=examples)(watch)


def watch(
    session: Session,
    *,
    every: Annotated[float, typer.Option(help="Seconds between refreshes.", min=0.1, max=86_400)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once and exit, as in a pipe.")] = False,
) -> None:
    """Watch rates, the oldest unfinished transaction, stuck transactions and breakers. q or Ctrl-C exits.

    In a pipe, and as JSON or YAML, the view is shown once.
    """
    console = session.output.console()
    # A dumb terminal cannot show a view in place.
    follows = session.output.is_terminal and sys.stdin.isatty() and not console.is_dumb_terminal
    if once or session.output.is_data or not follows:
        stats, stuck = _next_frame(session)
        listed = [without_payloads(session, transaction) for transaction in stuck]
        session.output.answer(_blocks(stats, stuck), session.record(stats) | {"stuck_transactions": listed})
        return
    # Ctrl-C exits, also before it is read as a key.
    with suppress(KeyboardInterrupt):
        _follow(session, console, every)


def _follow(session: Session, console: Console, every_s: float) -> None:
    with _keys() as next_key, Live(console=console, screen=True, auto_refresh=False) as live:
        shown: RenderableType = Text("asking …")
        while True:
            shown = _next(session, shown, console.width)
            live.update(shown, refresh=True)
            if next_key(every_s) in _LEAVE:
                return


def _next(session: Session, shown: RenderableType, width: int) -> RenderableType:
    """Return the next frame. While the coordinator is unavailable, keep the last one below the error."""
    try:
        blocks = _blocks(*_next_frame(session))
        wide = session.output.format is OutputFormat.WIDE
        return Group(rich_group(blocks, width=width, wide=wide), Text("\nq exits", style="dim"))
    except Failure as failure:
        last = shown.renderables[-1] if isinstance(shown, _Stale) else shown
        warning = Text(
            f"{time.strftime('%H:%M:%S')}  {harmless(failure.message)}\n", style="bold white on red"
        )
        return _Stale(warning, last)


class _Stale(Group):
    """The previous frame below a warning."""


def _next_frame(session: Session) -> tuple[admin.GetStatsResponse, Sequence[common.Transaction]]:
    """Return the figures and a sample of the stuck transactions."""
    stats = session.ask("GetStats", admin.GetStatsRequest())
    if not stats.stuck:
        return stats, []
    request = admin.SearchTransactionsRequest(filter="stuck live", page_size=_STUCK_SHOWN)
    return stats, session.ask("SearchTransactions", request).transactions


def _blocks(stats: admin.GetStatsResponse, stuck: Sequence[common.Transaction]) -> list[Block]:
    blocks = stats_blocks(stats)
    if stats.stuck:
        table = transaction_table(stuck, seconds_of(stats.at))
        blocks += [TextBlock(), TextBlock("Stuck:", "bold red"), table]
    return blocks


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits for a key for the given seconds and returns it, or an empty string."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def next_key(timeout_s: float) -> str:
        ready, _, _ = select.select([terminal], [], [], timeout_s)
        # The end of the input exits, too.
        return (os.read(terminal, 1).decode(errors="replace") or "q") if ready else ""

    tty.setcbreak(terminal)
    # Read Ctrl-C as a key: an interrupt could hit code that swallows it.
    mode = termios.tcgetattr(terminal)
    mode[tty.LFLAG] &= ~termios.ISIG
    termios.tcsetattr(terminal, termios.TCSADRAIN, mode)
    try:
        yield next_key
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
