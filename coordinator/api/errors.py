"""Refusals as gRPC statuses: a canonical code, and google.rpc.ErrorInfo with a stable reason.

A bug is reported as INTERNAL. Its details stay in the coordinator's own log: internal
texts do not help a caller, and may help an attacker.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import NoReturn, Protocol, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from coordinator.core.errors import CallTooLong, Refused
from tcc.common.v1 import common_pb2 as common

DOMAIN = "tcc"

logger = structlog.get_logger(__name__)


class InternalError(Refused):
    """The coordinator has a bug. Unlike a refusal, this leaves the outcome of the request unknown."""

    code = "INTERNAL"
    reason = "INTERNAL_ERROR"


class Capped(Protocol):
    """A servicer that bounds the time of its calls."""

    call_max_s: float

    def refused(self, method: str, request: Message, context: "Context", error: Refused) -> None:
        """Note that a request is refused."""
        ...


Servicer = TypeVar("Servicer", bound="Capped")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")
Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"


def code_number(error: Refused) -> int:
    """Return the number of a refusal's canonical status code."""
    number: int = grpc.StatusCode[error.code].value[0]
    return number


def to_status(error: Refused) -> Status:
    """Return the status of a unary call that is refused."""
    status = Status(code=code_number(error), message=error.message)
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata))
    status.details.append(_packed(info))
    if error.retry_after_s:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.append(_packed(RetryInfo(retry_delay=delay)))
    return status


def to_error(error: Refused) -> common.Error:
    """Return the error of one refused item of a batch."""
    return common.Error(
        code=code_number(error),
        reason=error.reason,
        message=error.message,
        retry_after_ms=round(error.retry_after_s * 1000),
        metadata=error.metadata,
    )


def refusals_as_statuses(
    method: Callable[[Servicer, Request, Context], Awaitable[Response]],
) -> Callable[[Servicer, Request, Context], Awaitable[Response]]:
    """End a servicer's method with the status of the `Refused` that it raises.

    Any other exception is a bug: it is logged here, and the caller gets INTERNAL. A call
    without a deadline gets one: `servicer.call_max_s` seconds.
    """

    @wraps(method)
    async def wrapped(servicer: Servicer, request: Request, context: Context) -> Response:
        try:
            if context.time_remaining() is None:
                return await _capped(method(servicer, request, context), servicer.call_max_s)
            return await method(servicer, request, context)
        except Refused as error:
            servicer.refused(method.__name__, request, context, error)
            await _abort(context, error)
        except grpc.aio.BaseError:  # the call is over, by an abort or by its end
            raise
        except Exception:
            logger.exception("a call failed because of a bug", method=method.__name__)
            await _abort(context, InternalError("the coordinator failed; its log output has the cause"))

    return wrapped


async def _abort(context: Context, error: Refused) -> NoReturn:
    # The stubs lack this method.
    await context.abort_with_status(rpc_status.to_status(to_status(error)))  # type: ignore[attr-defined]
    raise AssertionError("abort_with_status raises") from error


async def _capped(answer: Awaitable[Response], call_max_s: float) -> Response:
    try:
        async with asyncio.timeout(call_max_s):
            return await answer
    except TimeoutError:
        raise CallTooLong(f"a call without a deadline takes at most {call_max_s:g} seconds") from None


def _packed(message: ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
