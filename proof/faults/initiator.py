"""An initiator to be killed: a process that places the orders of one plan.

    python -m proof.faults.initiator --coordinators TARGET --seed N --name NAME --orders N --journal FILE \
        --credentials DIRECTORY --database URL

It ends with 0 when all are answered. Started again with the same arguments it asks for
all of them again, as an initiator does that does not know how far it came.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from participants.demo.plan import make_plan
from proof.faults.load import clients_of
from proof.faults.orders import order_service, place_and_record, renamed
from proof.faults.tenants import Credentials, tenant_of
from proof.history.recorder import FileRecorder

_IN_FLIGHT = 12


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordinators", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--orders", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--credentials", type=Path, required=True, help="the directory of them")
    parser.add_argument("--database", required=True, help="of the order service")
    unanswered = asyncio.run(_place_all(parser.parse_args()))
    for line in unanswered:
        print(f"unanswered {line}", flush=True)
    return 1 if unanswered else 0


async def _place_all(options: argparse.Namespace) -> list[str]:
    plan = renamed(make_plan(orders=options.orders, seed=options.seed), options.name)
    waiting = iter(plan.orders)
    unanswered: list[str] = []
    with FileRecorder(options.journal) as recorder:
        async with (
            clients_of(options.coordinators, Credentials(options.credentials)) as clients,
            order_service(options.database) as service,
        ):

            async def place_some() -> None:
                for order in waiting:
                    client, other = clients[tenant_of(order.gid)]
                    placed = await place_and_record(
                        order, client, other, service, recorder=recorder, initiator=options.name
                    )
                    if placed.error:
                        unanswered.append(f"{order.gid} {order.initiator_fault}: {placed.error}")

            async with asyncio.TaskGroup() as tasks:
                for _ in range(_IN_FLIGHT):
                    tasks.create_task(place_some())
    return unanswered


if __name__ == "__main__":
    sys.exit(main())
