"""The locks that are compared. Each is held during the block of `hold`."""

import asyncio
import json
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import tcc
from tcc._internal.uuid7 import uuid7
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc

# How long a lock in Redis lives, unless its holder releases it.
TTL_S = 10.0
# Redlock's pause between two attempts is random, up to this.
_REDLOCK_RETRY_S = 0.2
_WAIT_S = 60.0


class Contender(Protocol):
    """A kind of lock."""

    def hold(self, name: str) -> AbstractAsyncContextManager[None]:
        """Wait for the lock `name` and hold it during the block."""


class RedisPyLock:
    """redis-py's own `Lock`. It asks every `sleep_s` seconds; the default of redis-py is 0.1."""

    def __init__(self, redis: Any, *, sleep_s: float, ttl_s: float = TTL_S) -> None:
        self._redis = redis
        self._sleep_s = sleep_s
        self._ttl_s = ttl_s

    def hold(self, name: str) -> AbstractAsyncContextManager[None]:
        lock: AbstractAsyncContextManager[None] = self._redis.lock(
            name, timeout=self._ttl_s, sleep=self._sleep_s
        )
        return lock


class Redlock:
    """The algorithm of redis.io on one node: SET NX PX, and a script that releases one's own lock only."""

    _RELEASE = """
        if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
        return 0
    """

    def __init__(self, redis: Any, *, ttl_s: float = TTL_S) -> None:
        self._redis = redis
        self._ttl_ms = round(ttl_s * 1000)
        self._release = redis.register_script(self._RELEASE)

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        value = secrets.token_hex()
        while not await self._redis.set(name, value, nx=True, px=self._ttl_ms):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(random.uniform(0, _REDLOCK_RETRY_S))
        try:
            yield
        finally:
            await self._release(keys=[name], args=[value])


class LocksAlone:
    """Our participant, called directly: the lock alone, without the transaction that it belongs to."""

    def __init__(self, stub: pb_grpc.ParticipantServiceStub) -> None:
        self._stub = stub

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        call = pb.BranchCall(
            gid=uuid7(),
            branch_id="lock",
            action="acquire",
            payload=json.dumps({"keys": [name], "wait_ms": round(_WAIT_S * 1000)}).encode(),
            content_type="application/json",
        )
        call.operation = common.OPERATION_TRY
        while (
            tried := (await self._stub.TryBranch(pb.TryBranchRequest(call=call))).result
        ).reason == "LOCKED":
            pass  # it has waited there for two seconds
        assert tried.code == common.OUTCOME_CODE_SUCCEEDED, tried
        try:
            yield
        finally:
            call.operation = common.OPERATION_CONFIRM
            await self._stub.ConfirmBranch(pb.ConfirmBranchRequest(call=call))


class LocksInTransactions:
    """Our participant as it is used: each holder is a transaction with its decision in the log."""

    def __init__(self, client: tcc.Client) -> None:
        self._client = client

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        async with self._client.transaction(expiry_s=2 * _WAIT_S, timeout_s=2 * _WAIT_S) as tx:
            await tx.try_("locks", "acquire", {"keys": [name], "wait_ms": round(_WAIT_S * 1000)})
            yield
