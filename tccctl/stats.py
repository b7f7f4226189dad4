"""`tccctl stats`: the state of the system in numbers."""

import typer

from tcc.admin.v1 import admin_pb2 as admin
from tccctl.blocks import Block, Cell, Facts, TextBlock, cell
from tccctl.command import command
from tccctl.coordinators import coordinator_table
from tccctl.formatting import counted, duration, instant, seconds_of
from tccctl.participants import participant_table
from tccctl.session import Session


def register(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "stats", examples=["tccctl stats", "tccctl stats -o json"])(stats)


def stats(session: Session) -> None:
    """Show counts and rates of transactions, participants and coordinators."""
    reply = session.ask("GetStats", admin.GetStatsRequest())
    session.output.answer(stats_blocks(reply), session.record(reply))


def stats_blocks(reply: admin.GetStatsResponse) -> list[Block]:
    """Return everything in a GetStats response."""
    now_s = seconds_of(reply.at)
    return [
        Facts(_facts(reply)),
        TextBlock(),
        participant_table(reply.participants, now_s),
        TextBlock(),
        coordinator_table(reply.coordinators, reply.responder_id, now_s),
    ]


def _facts(reply: admin.GetStatsResponse) -> list[tuple[str, Cell]]:
    oldest = "no unfinished transaction"
    if reply.oldest_unfinished_gid:
        age = reply.oldest_unfinished_age
        oldest = f"{reply.oldest_unfinished_gid}, for {duration(age.seconds + age.nanos / 1e9)}"
    rates = (
        f"{reply.begun_per_s:.1f} begun, {reply.confirmed_per_s:.1f} confirmed,"
        f" {reply.cancelled_per_s:.1f} cancelled"
    )
    return [
        ("at", cell(instant(reply.at))),
        ("live", cell(_live(reply))),
        (
            "waiting for a retry",
            cell(counted(reply.parked, at_least=reply.capped), "yellow" if reply.parked else ""),
        ),
        ("stuck", cell(_marked(reply, reply.stuck), "bold red" if reply.stuck else "")),
        ("held", cell(_marked(reply, reply.held), "yellow" if reply.held else "")),
        ("oldest unfinished", cell(oldest)),
        ("per second", cell(rates)),
        ("calls per second", cell(_calls(reply), "red" if reply.failed_calls_per_s else "")),
    ]


def _live(reply: admin.GetStatsResponse) -> str:
    states = {"TRYING": reply.trying, "CONFIRMING": reply.confirming, "CANCELLING": reply.cancelling}
    return ", ".join(f"{counted(count, at_least=reply.capped)} {state}" for state, count in states.items())


def _marked(reply: admin.GetStatsResponse, count: int) -> str:
    return counted(count, at_least=0 < reply.count_max <= count)


def _calls(reply: admin.GetStatsResponse) -> str:
    return f"{reply.calls_per_s:.1f}, of these {reply.failed_calls_per_s:.1f} failed"
