"""Participants with replicas are restarted one after the other, under load, and no call in a stream fails."""

import asyncio

from sqlalchemy.ext.asyncio import create_async_engine

from coordinator.core.model import CallResult, OutcomeCode
from coordinator.participant_client.channel import ParticipantAddress
from tcc import Participant
from tests.participant.test_participant import Idle
from tests.participant_client.test_streams import calling, execute, make_call, streams_of, until

SUCCEEDED = CallResult(code=OutcomeCode.SUCCEEDED)
PATIENCE_S = 60
CALLERS = 4


def replica(directory: str, number: int) -> Participant:
    engine = create_async_engine(f"sqlite+aiosqlite:///{directory}/{number}.db")
    participant = Participant("stock", database=engine)
    participant.action("reserve", bytes)(Idle)
    return participant


async def test_a_rolling_restart_of_replicas_fails_no_call(tmp_path) -> None:
    replicas = [replica(str(tmp_path), number) for number in range(2)]
    for each in replicas:
        await each.create_schema()
    ports = [await each.start() for each in replicas]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    results: list[CallResult] = []
    ids = iter(range(1_000_000))
    stopping = False
    async with asyncio.timeout(PATIENCE_S), calling(ParticipantAddress(target=target)) as client:

        async def load() -> None:
            while not stopping:
                results.extend((await execute(client, make_call(next(ids)))).values())

        callers = [asyncio.create_task(load()) for _ in range(CALLERS)]
        await until(lambda: len(streams_of(client)._streams) == 2)
        for number, port in enumerate(ports):
            before = set(streams_of(client)._streams)
            await replicas[number].stop(30)
            await replicas[number].start(f"127.0.0.1:{port}")
            # As a deployment does: the next one follows when this one is ready and in use.
            await until(lambda before=before: len(set(streams_of(client)._streams) - before) == 1)
            await until(lambda: len(streams_of(client)._streams) == 2)
        stopping = True
        await asyncio.gather(*callers)
    for each in replicas:
        await each.stop()
    assert len(results) > CALLERS
    assert set(results) == {SUCCEEDED}
