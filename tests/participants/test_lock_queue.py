"""Any order of requests and ends: no two conflicting holders, the oldest request always holds."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import given, settings, strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import StaticPool

from participants.locks import store
from participants.locks.lock import is_free
from participants.locks.requests import Acquire, Mode


class Batch(NamedTuple):
    """Some branches end, by their positions among the holders; then some ask in one batch."""

    ends: frozenset[int]
    requests: list[Acquire]


requests = st.builds(
    Acquire,
    keys=st.frozensets(st.sampled_from("abc"), min_size=1),
    mode=st.sampled_from(Mode),
)
batches = st.lists(
    st.builds(Batch, ends=st.frozensets(st.integers(0, 2)), requests=st.lists(requests, max_size=3)),
    max_size=12,
)


def conflicts(one: Acquire, other: Acquire) -> bool:
    return bool(one.keys & other.keys) and Mode.EXCLUSIVE in (one.mode, other.mode)


@settings(max_examples=40)
@given(batches)
def test_the_queue_is_fair_and_exclusive(batches: list[Batch]) -> None:
    asyncio.run(play(batches))


async def play(batches: list[Batch]) -> None:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with engine.begin() as db:
        await db.run_sync(store.metadata.create_all)
        # By gid, in the order of arrival.
        queue: dict[str, Acquire] = {}
        tokens: dict[str, int] = {}
        arrived = 0
        for batch in batches:
            holders = await check(db, queue, tokens)
            ended = [gid for position, gid in enumerate(holders) if position in batch.ends]
            await store.release(db, [(gid, "b") for gid in ended])
            new = {f"g{arrived + number}": request for number, request in enumerate(batch.requests)}
            arrived += len(new)
            if new:
                await store.enqueue(db, [((gid, "b"), request) for gid, request in new.items()], now_ms=0)
            queue = {gid: request for gid, request in (queue | new).items() if gid not in ended}
        while queue:
            holders = await check(db, queue, tokens)
            await store.release(db, [(holders[0], "b")])
            del queue[holders[0]]
    await engine.dispose()


async def check(db: AsyncConnection, queue: dict[str, Acquire], tokens: dict[str, int]) -> Sequence[str]:
    """Check who holds its keys: a request waits for each earlier one that conflicts, and for no other."""
    places = await store.places(db, [(gid, "b") for gid in queue])
    found = [gid for gid in queue if is_free(places[gid, "b"])]
    earlier: list[Acquire] = []
    expected = []
    for gid, request in queue.items():
        if not any(conflicts(request, other) for other in earlier):
            expected.append(gid)
        earlier.append(request)
    assert found == expected
    assert found[:1] == list(queue)[:1]
    assert await store.blocked(db) == {(gid, "b") for gid in queue if gid not in expected}
    await store.acquire(db, [(gid, "b") for gid in found], now_ms=1)
    for gid, request in queue.items():
        of_branch = {place.name: place.token for place in places[gid, "b"]}
        assert of_branch.keys() == request.keys
    for gid in found:
        for place in places[gid, "b"]:
            if queue[gid].mode is Mode.EXCLUSIVE:
                assert tokens.get(place.name, 0) <= place.token
                tokens[place.name] = place.token
    return found
