"""Assertions about a refused call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status


class Refusal:
    """The status of a refused call, once the block has ended."""

    error: grpc.aio.AioRpcError
    info: ErrorInfo

    @property
    def retry_after_s(self) -> float | None:
        for detail in rpc_status.from_call(self.error).details:
            if detail.Is(RetryInfo.DESCRIPTOR):
                hint = RetryInfo()
                detail.Unpack(hint)
                return hint.retry_delay.ToTimedelta().total_seconds()
        return None


@asynccontextmanager
async def refused(code: str, reason: str) -> AsyncIterator[Refusal]:
    """The block's call must be refused with this status code and this ErrorInfo reason."""
    refusal = Refusal()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield refusal
    refusal.error = caught.value
    assert refusal.error.code().name == code, refusal.error
    status = rpc_status.from_call(refusal.error)
    assert status is not None, refusal.error
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("tcc", reason)
    refusal.info = info
