"""How a generated handler ends: the exceptions that it raises and the values that it returns."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from sqlalchemy.exc import OperationalError

from tcc import Rejected


@dataclass(frozen=True)
class Raise:
    """Raise the exception of this name."""

    name: str

    def __str__(self) -> str:
        return f"raise {self.name}"


@dataclass(frozen=True)
class Return:
    """Return the value of this name."""

    name: str

    def __str__(self) -> str:
        return f"return {self.name}"


Ending: TypeAlias = Raise | Return
RETURNS_NOTHING = Return("None")

SURROGATE = "odd \udcff text"


class Reason(Enum):
    SOLD_OUT = "sold out"


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this exception has no text")

    __repr__ = __str__


class OddBaseError(BaseException):
    """As some test and task libraries derive theirs."""


# Awaited or asked for by the handler, and cancelled by another: its error leaks.
CANCELLED_AWAIT = "an await of something cancelled"
# A bare next() on an empty result.
BARE_NEXT = "StopIteration of a bare next()"

EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("odd"),
    "KeyError": lambda: KeyError("sku"),
    "RuntimeError": lambda: RuntimeError("odd"),
    BARE_NEXT: StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    CANCELLED_AWAIT: asyncio.CancelledError,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "TimeoutError": TimeoutError,
    "MemoryError": MemoryError,
    "RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "an exception without text": UnprintableError,
    "a lone surrogate": lambda: ValueError(SURROGATE),
    "a BaseException": lambda: OddBaseError("odd"),
    "ExceptionGroup": lambda: ExceptionGroup("odd", [ValueError("a"), KeyError("b")]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("odd", [OddBaseError("a")]),
    "OperationalError": lambda: OperationalError("SELECT 1", {}, Exception("made by the handler")),
    "Rejected": lambda: Rejected("SOLD_OUT"),
    "Rejected(Enum)": lambda: Rejected(Reason.SOLD_OUT),  # type: ignore[arg-type]
    "Rejected(error)": lambda: Rejected(ValueError("x")),  # type: ignore[arg-type]
    "Rejected(lone surrogate)": lambda: Rejected("SOLD_OUT", SURROGATE),
    "Rejected(None)": lambda: Rejected(None),  # type: ignore[arg-type]
}
# The endings whose REJECTED is right in a Try.
REJECTIONS = frozenset(name for name in EXCEPTIONS if name.startswith("Rejected"))

# What a result may hold at most; see tcc.barrier.plans.
HUGE = b"x" * 2**20


async def _never_awaited() -> None:
    raise AssertionError("this coroutine is returned, not run")


VALUES: dict[str, Callable[[], object]] = {
    RETURNS_NOTHING.name: lambda: None,
    "dict": lambda: {"id": 1},
    "bytes": lambda: b"\0\xff",
    "list": lambda: [1, "two"],
    "huge bytes": lambda: HUGE,
    "more bytes than a result may have": lambda: HUGE + b"x",
    "dict with a lone surrogate": lambda: {"a": SURROGATE},
    "int": lambda: 3,
    "object": object,
    "lambda": lambda: lambda: None,
    "dict with an unencodable value": lambda: {"a": object()},
    "coroutine": _never_awaited,
    "set": lambda: {1, 2},
}
# What every participant can encode.
ENCODABLE = frozenset({RETURNS_NOTHING.name, "dict", "bytes", "list", "huge bytes"})
# What none can.
UNENCODABLE = frozenset(
    {
        "int",
        "object",
        "lambda",
        "dict with an unencodable value",
        "coroutine",
        "set",
        "more bytes than a result may have",
    }
)

# What a batch handler answers as a whole: made of the right list and the misbehaving item's place.
BATCH_VALUES: dict[str, Callable[[list[object], int], Any]] = {
    "wrong length": lambda answers, _: [*answers, None],
    "an empty list": lambda answers, _: [],
    "a generator": lambda answers, _: (answer for answer in answers),
    "a number": lambda answers, _: 3,
    "an exception inside": lambda answers, place: _with(answers, place, ValueError("odd")),
    "a BaseException inside": lambda answers, place: _with(answers, place, OddBaseError("odd")),
    "a KeyboardInterrupt inside": lambda answers, place: _with(answers, place, KeyboardInterrupt()),
    "a StopIteration inside": lambda answers, place: _with(answers, place, StopIteration()),
    # Only of an item that changed nothing: that is the contract of batch handlers.
    "Rejected inside": lambda answers, place: _with(answers, place, Rejected("SOLD_OUT")),
    "Rejected(Enum) inside": lambda answers, place: _with(answers, place, EXCEPTIONS["Rejected(Enum)"]()),
}
BATCH_REJECTIONS = frozenset({"Rejected inside", "Rejected(Enum) inside"})


def _with(answers: list[object], place: int, answer: object) -> list[object]:
    return [*answers[:place], answer, *answers[place + 1 :]]


def raise_sync(ending: Raise) -> None:
    """Raise the ending's exception, in the way that it comes about."""
    if ending.name == CANCELLED_AWAIT:
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        future.cancel()
        future.result()
    if ending.name == BARE_NEXT:
        next(iter(()))
    error = EXCEPTIONS[ending.name]()
    raise error


async def raise_async(ending: Raise) -> None:
    if ending.name == CANCELLED_AWAIT:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
    raise_sync(ending)
