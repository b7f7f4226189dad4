"""Measure the locks: `python -m proof.locks`."""

import argparse
import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

import tcc
from bench.options import Options
from bench.report import machine
from bench.stage import stage
from participants import redis_server
from proof.locks import pause
from proof.locks.contenders import Contender, LocksAlone, LocksInTransactions, RedisPyLock, Redlock
from proof.locks.load import Measured, measure
from tcc._internal.channel_options import client_options
from tcc.participant.v1 import participant_pb2_grpc as pb_grpc

# Of a lock in Redis, and of the transaction of a holder that is paused for longer.
_SHORT_S = 1.0
_IN_TRANSACTIONS = "locks in transactions"


def main() -> int:
    arguments = _parser().parse_args()
    missing = redis_server.missing()
    if missing:
        print(missing, file=sys.stderr)
        return 1
    with redis_server.redis_server() as redis, stage(Options(data_dir=arguments.data_dir)) as here:
        locks = here.start_services(["locks"])
        system = here.start_coordinator(locks, policy={"retry_max_s": "0.2"})
        found = asyncio.run(
            _run(arguments, redis, system.address, locks.addresses["locks"], here.directory / "holder.err")
        )
    found["machine"] = machine()
    if arguments.json:
        print(json.dumps(found))
        return 0
    for name, figures in found["load"].items():
        print(f"{name:24}", " ".join(f"{key} {value}" for key, value in figures.items()))
    for name, outcome in found["paused"].items():
        print(f"{name:24} {outcome}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=100, help="how many want a lock at once")
    parser.add_argument("--data-dir", type=Path, help="directory for PostgreSQL's data")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


async def _run(
    arguments: argparse.Namespace, socket: str, coordinator: str, participant: str, log: Path
) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server.open_client(socket))
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(participant, options=client_options())
        )
        client = await stack.enter_async_context(tcc.Client(coordinator))
        contenders: dict[str, Contender] = {
            "redis-py Lock": RedisPyLock(redis, sleep_s=0.1),
            "redis-py Lock, 10 ms": RedisPyLock(redis, sleep_s=0.01),
            "Redlock, one node": Redlock(redis),
            "locks alone": LocksAlone(pb_grpc.ParticipantServiceStub(channel)),
            _IN_TRANSACTIONS: LocksInTransactions(client),
        }
        measured = {name: Measured() for name in contenders}
        for _ in range(arguments.rounds):
            for name, contender in contenders.items():
                one = await measure(contender, workers=arguments.workers, seconds=arguments.seconds)
                measured[name].add(one)
        return {
            "load": {name: each.as_json() for name, each in measured.items()},
            "paused": {
                "redis-py Lock": await pause.wake_beside_second(
                    "redis-py", socket, contenders["redis-py Lock"], lifetime_s=_SHORT_S, log=log
                ),
                "Redlock, one node": await pause.wake_beside_second(
                    "redlock", socket, contenders["Redlock, one node"], lifetime_s=_SHORT_S, log=log
                ),
                f"{_IN_TRANSACTIONS}, expired": await pause.wake_beside_second(
                    "transaction", coordinator, contenders[_IN_TRANSACTIONS], lifetime_s=_SHORT_S, log=log
                ),
                _IN_TRANSACTIONS: " then ".join(
                    await pause.second_during_pause(coordinator, wait_s=2 * _SHORT_S, log=log)
                ),
            },
        }


if __name__ == "__main__":
    sys.exit(main())
