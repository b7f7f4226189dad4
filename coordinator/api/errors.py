"""Refusals as gRPC statuses: a canonical code, and google.rpc.ErrorInfo with a stable reason.

A bug is reported as INTERNAL. Its details stay in the coordinator's own log: internal
texts do not help a caller, and may help an attacker.

A status travels in headers, whose size gRPC limits: 8 KiB are safe with every client. Longer texts
are cut, or the caller would get RESOURCE_EXHAUSTED instead of the status.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Protocol, TypeAlias, TypeVar

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
# A status holds the message twice: percent-encoded, and in base64 with the metadata. Together they fit.
MESSAGE_BYTES_MAX = 1_500
MESSAGE_ENCODED_BYTES_MAX = 3_000
METADATA_BYTES_MAX = 2_000
# Twelve times as long if every character has four bytes and each is percent-encoded.
_SHORT_CHARACTERS = MESSAGE_ENCODED_BYTES_MAX // 12
# The bytes that are not percent-encoded, but for the percent sign.
_PRINTABLE = (0x20, 0x7E)
_PERCENT = 0x25

logger = structlog.get_logger(__name__)


class InternalError(Refused):
    """The coordinator has a bug. Unlike a refusal, this leaves the outcome of the request unknown."""

    code = "INTERNAL"
    reason = "INTERNAL_ERROR"


class Capped(Protocol):
    """A servicer that bounds the time of its calls."""

    call_max_s: float

    def refused(self, method: str, request: object, context: "Context", error: Refused, /) -> Refused:
        """Note that a request is refused; return the refusal as this servicer's callers may see it."""
        ...


Servicer = TypeVar("Servicer", bound="Capped")
Request = TypeVar("Request")
Response = TypeVar("Response")
Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"


def code_number(error: Refused) -> int:
    """Return the number of a refusal's canonical status code."""
    number: int = grpc.StatusCode[error.code].value[0]
    return number


def to_status(error: Refused) -> Status:
    """Return the status of a unary call that is refused."""
    status = Status(code=code_number(error), message=header_text(error.message))
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_header_metadata(error.metadata))
    status.details.append(_packed(info))
    if error.retry_after_s:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.append(_packed(RetryInfo(retry_delay=delay)))
    return status


def to_error(error: Refused) -> common.Error:
    """Return the error of one refused item of a batch. It has the texts that a status would have."""
    return common.Error(
        code=code_number(error),
        reason=error.reason,
        message=header_text(error.message),
        # Not rounded to 0: that would ask the client not to repeat the request.
        retry_after_ms=math.ceil(error.retry_after_s * 1000),
        metadata=_header_metadata(error.metadata),
    )


def header_text(text: str) -> str:
    """Return as much of a text as fits into a header."""
    if len(text) <= _SHORT_CHARACTERS:
        return text
    raw = text[:MESSAGE_BYTES_MAX].encode(errors="replace")[:MESSAGE_BYTES_MAX]
    size = 0
    for position, byte in enumerate(raw):
        size += 1 if _PRINTABLE[0] <= byte <= _PRINTABLE[1] and byte != _PERCENT else 3
        if size > MESSAGE_ENCODED_BYTES_MAX:
            raw = raw[:position]
            break
    return raw.decode(errors="ignore")


def _header_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return as much of the metadata as fits; a short text leaves its room to the longer ones."""
    fitting: dict[str, str] = {}
    room = METADATA_BYTES_MAX
    for key in sorted(metadata, key=lambda key: len(metadata[key])):
        share = room // (len(metadata) - len(fitting))
        raw = metadata[key][:share].encode(errors="replace")[:share]
        room -= len(raw)
        fitting[key] = raw.decode(errors="ignore")
    return fitting


def refuse(context: Context, error: Refused) -> None:
    """Give a call the status of a refusal; it ends when its method returns.

    Not by `abort`: gRPC keeps the exception of an abort with the call. Its traceback would hold the
    request in a cycle, until a garbage collection, which is rare here.
    """
    status = to_status(error)
    context.set_code(grpc.StatusCode[error.code])
    context.set_details(status.message)
    context.set_trailing_metadata(rpc_status.to_status(status).trailing_metadata)
    _drop_frames(error)


def fail(context: Context, error: Exception, method: str) -> None:
    """Log the bug that is being handled, and give its call the status INTERNAL."""
    logger.error("a call failed because of a bug", method=method, exc_info=True)  # noqa: LOG014 - one is being handled
    refuse(context, InternalError("the coordinator failed; its log output has the cause"))
    _drop_frames(error)


def _drop_frames(error: BaseException | None) -> None:
    """Drop the frames that an exception holds: their variables hold the request, and maybe the exception."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def refusals_as_statuses(
    method: Callable[[Servicer, Request, Context], Awaitable[Response]],
) -> Callable[[Servicer, Request, Context], Awaitable[Response | None]]:
    """End a servicer's method with the status of the `Refused` that it raises.

    Any other exception is a bug: it is logged here, and the caller gets INTERNAL. A call
    without a deadline gets one: `servicer.call_max_s` seconds.
    """

    @wraps(method)
    async def wrapped(servicer: Servicer, request: Request, context: Context) -> Response | None:
        try:
            if context.time_remaining() is None:
                return await _capped(method(servicer, request, context), servicer.call_max_s)
            return await method(servicer, request, context)
        except Refused as error:
            refuse(context, servicer.refused(method.__name__, request, context, error))
            _drop_frames(error)
        except grpc.aio.BaseError:  # the call is over, by an abort or by its end
            raise
        except Exception as error:  # noqa: BLE001 - it is a bug, and logged
            fail(context, error, method.__name__)
        return None

    return wrapped


async def _capped(answer: Awaitable[Response], call_max_s: float) -> Response:
    try:
        async with asyncio.timeout(call_max_s):
            return await answer
    except TimeoutError:
        raise call_too_long(call_max_s) from None


def call_too_long(call_max_s: float) -> CallTooLong:
    """Return the refusal to wait any longer for a caller that sets no deadline."""
    return CallTooLong(f"a call without a deadline takes at most {call_max_s:g} seconds")


def _packed(message: ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
