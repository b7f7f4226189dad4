"""The initiators to be killed: processes of order services, forked from one that has imported everything.

    python -m proof.local_first.initiator --coordinator TARGET --database URL

Each line of standard input is a `Command`, for which a process is forked. It serves the
participant of its name, and if a step is given, it buys local first until that step kills it.
Lines of standard output: `waiting NAME` when it has come so far that only the coordinator's
question is missing, `serving NAME` without a step, and `ended NAME STATUS`.
"""

import argparse
import asyncio
import os
import select
import signal
import sys
import threading
from typing import NoReturn

from msgspec import Struct, json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

import tcc
from proof.faults.failpoints import killer
from proof.local_first.matrix import Step
from tcc._internal import failpoint

EXPIRY_S = 3.0
# A COMMIT of such an order takes COMMIT_S; its process is killed in the midst of it.
SLOW = "slow"
COMMIT_S = 1.0
_POLL_S = 0.02
_INSERT = text("INSERT INTO orders VALUES (:gid, :note)")
_KILLED_AT = {
    Step.REGISTERED: "client.local.registered",
    Step.BEFORE_COMMIT: "client.local.commit.before",
    Step.COMMITTED: "client.local.committed",
    Step.ASKED_BEFORE: "participant.check.before",
    Step.ASKED_AFTER: "participant.check.after",
    Step.ASKED_OPEN: "participant.check.before",
    Step.ASKED_COMMITTED: "participant.check.after",
}


class Command(Struct, frozen=True):
    """A process to start. Without a step it only serves."""

    name: str
    address: str
    gid: str = ""
    step: Step | None = None


def main() -> NoReturn:
    """Fork a process for each command, and report its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--database", required=True)
    options = parser.parse_args()
    names: dict[int, str] = {}
    signal.signal(signal.SIGTERM, lambda *_: _end(names))
    unread = b""
    while True:
        readable, _, _ = select.select([0], [], [], _POLL_S)
        if readable:
            read = os.read(0, 2**16)
            if not read:
                _end(names)
            *lines, unread = (unread + read).split(b"\n")
            for line in lines:
                command = json.decode(line, type=Command)
                pid = os.fork()
                if not pid:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    asyncio.run(_live(command, options.coordinator, options.database))
                    os._exit(0)
                names[pid] = command.name
        _reap(names)


def _reap(names: dict[int, str]) -> None:
    while names:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        _say(f"ended {names.pop(pid)} {os.waitstatus_to_exitcode(status)}")


def _end(names: dict[int, str]) -> NoReturn:
    for pid in names:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_soon(name: str) -> None:
    """Die while the request is under way: the failpoint is passed just before it is sent."""
    if name == "client.call.send":
        asyncio.get_running_loop().call_soon(_die)


async def _live(command: Command, coordinator: str, database: str) -> None:
    engine = create_async_engine(database, pool_size=3, max_overflow=0)
    orders = tcc.Participant(command.name, database=engine)
    await orders.start(command.address)
    if command.step is None:
        _say(f"serving {command.name}")
        await asyncio.Event().wait()
    else:
        await _buy(orders, tcc.Client(coordinator), command.gid, command.step)


async def _buy(orders: tcc.Participant, client: tcc.Client, gid: str, step: Step) -> None:
    """Buy local first, until the step kills this process."""
    if point := _KILLED_AT.get(step):
        failpoint.hooks.append(killer({point: 1}))
    tx = client.transaction(gid=gid, expiry_s=EXPIRY_S)
    await tx.begin()
    await tx.try_("stock", "reserve", {}, branch_id="stock")
    tx.message("stock", "tell", {}, branch_id="message")
    if step is Step.TRIED:
        _die()
    local = tx.local(orders)
    if step in {Step.ASKED_BEFORE, Step.ASKED_AFTER}:
        await local.register()
        await _wait_for_question(orders)
    async with local as db:
        await _change(db, orders, gid, step)
    if step is Step.ASKED_COMMITTED:
        await _wait_for_question(orders)
    if step is Step.CONFIRM_SENT:
        failpoint.hooks.append(_die_soon)
    await tx.confirm()
    _die()


async def _change(db: AsyncConnection, orders: tcc.Participant, gid: str, step: Step) -> None:
    await db.execute(_INSERT, {"gid": gid, "note": SLOW if step is Step.IN_COMMIT else ""})
    if step is Step.IN_BLOCK:
        _die()
    if step is Step.ASKED_OPEN:
        await _wait_for_question(orders)
    if step is Step.IN_COMMIT:
        threading.Timer(COMMIT_S / 2, _die).start()


async def _wait_for_question(orders: tcc.Participant) -> None:
    _say(f"waiting {orders.name}")
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
