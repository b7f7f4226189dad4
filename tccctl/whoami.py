"""`tccctl whoami`: who the coordinator takes the caller for, and what the caller may do."""

import typer

from tcc.admin.v1 import admin_pb2 as admin
from tccctl.blocks import Block, Cell, Facts, TextBlock, cell
from tccctl.command import command
from tccctl.session import Session


def register(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "whoami", examples=["tccctl whoami", "tccctl whoami --token-file ana.token"])(whoami)


def whoami(session: Session) -> None:
    """Show who the coordinator takes you for, and what you may do."""
    reply = session.ask("WhoAmI", admin.WhoAmIRequest())
    session.output.answer(whoami_blocks(reply), session.record(reply))


def whoami_blocks(reply: admin.WhoAmIResponse) -> list[Block]:
    """Return everything in a WhoAmI response but the methods, which follow from the role."""
    if not reply.authenticated:
        return [TextBlock("this coordinator authenticates no caller: each may do everything", "yellow")]
    facts: list[tuple[str, Cell]] = [("identity", cell(reply.principal)), ("proved by", cell(reply.method))]
    if reply.operator:
        tenants = ", ".join(reply.tenants) or "all"
        facts += [
            ("operator", cell(reply.operator)),
            ("role", cell(reply.role)),
            ("tenants", cell(tenants)),
            ("payloads", cell("shown" if reply.payloads else "hidden")),
        ]
    if reply.client:
        facts += [
            ("client", cell(reply.client)),
            ("gids begin with", cell(", ".join(reply.gid_prefixes))),
            ("may call", cell(", ".join(reply.calls) or "nothing")),
        ]
    if not reply.operator and not reply.client:
        facts.append(("may do", cell("nothing: the identity is in no entry of the configuration", "yellow")))
    return [Facts(facts)]
