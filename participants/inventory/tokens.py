"""The counts of the gate in Redis. They are a copy: the database decides, and corrects them (sync_back)."""

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

from participants.inventory.script import SCRIPT
from participants.inventory.store import Key

try:
    from redis.exceptions import RedisError, ResponseError

    from participants.redis_client import connect
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the stock gate in Redis needs redis: pip install 'tcc-demo[redis]'", name=error.name
    ) from error

EMPTY: Mapping[str, Sequence[Key]] = MappingProxyType({})
# What Redis may raise, when it is slow, unavailable or broken.
UNAVAILABLE = (RedisError, OSError, TimeoutError)


def is_about_contents(error: BaseException) -> bool:
    """Return whether an error says that keys hold what the gate has not written."""
    # Its subclasses are about the server: it is out of memory, read-only and so on.
    return type(error) is ResponseError or isinstance(error, ValueError)


# Status of a SKU of which no unit was asked for: see the script.
UNKNOWN, LOAD, LOADING = "unknown", "load", "loading"
# Answers for a branch.
REFUSED, TAKEN, PASSED = 0, 1, 2

# Of a server that says nothing. Callers that cannot wait that long have limits of their own.
_TIMEOUT_S = 1.0
_JITTER = 0.2


class Lifetimes(NamedTuple):
    """How long Redis keeps what is not used or renewed, in seconds. Those of SKUs are jittered."""

    sku_s: float = 600.0
    # Longer than a transaction usually takes; it may be twice as long. The units of a branch that is
    # cancelled later come back by a comparison with the database.
    branch_s: float = 600.0
    unknown_s: float = 1.0
    loading_s: float = 1.0


LIFETIMES = Lifetimes()


class Wanted(NamedTuple):
    """The units of a SKU that a branch wants."""

    branch: Key
    sku: str
    units: int
    # False for a repeated Try: what it reserved before must not be refused.
    is_refusable: bool = True


class Flight(NamedTuple):
    """A branch that has taken units, and of which Redis does not know that it has committed."""

    branch: Key
    units: int
    age_s: float


class Count(NamedTuple):
    """A SKU in Redis. Without tokens it is absent."""

    sku: str
    tokens: int | None
    epoch: str
    flights: Sequence[Flight]


class Correction(NamedTuple):
    """A change of a SKU that counts only if its epoch is still the one that was read."""

    sku: str
    epoch: str
    units: int = 0
    # Flights that the database knows, and those that have died.
    ended: Sequence[Key] = ()
    dead: Sequence[Key] = ()
    is_unknown: bool = False


class Tokens:
    """Calls of the script. Each raises one of `UNAVAILABLE` if Redis does not answer."""

    def __init__(self, url: str, lifetimes: Lifetimes = LIFETIMES) -> None:
        self._redis = connect(url, timeout_s=_TIMEOUT_S)
        self._script = self._redis.register_script(SCRIPT)
        self._lifetimes = lifetimes

    async def close(self) -> None:
        await self._redis.aclose()

    async def take(
        self, wanted: Sequence[Wanted], landed: Mapping[str, Sequence[Key]] = EMPTY
    ) -> list[int | str]:
        """Take units in order; return one answer per branch, or the status of its SKU.

        `landed`: branches that have committed, by SKU.
        """
        places: dict[str, list[int]] = {}
        for place, want in enumerate(wanted):
            if want.sku not in places:
                places[want.sku] = []
            places[want.sku].append(place)
        groups = [
            {
                "sku": sku,
                "branches": [_text(wanted[place].branch) for place in group],
                "units": [wanted[place].units for place in group],
                "repeated": [not wanted[place].is_refusable for place in group],
                "keep_ms": _jittered_ms(self._lifetimes.sku_s),
            }
            for sku, group in places.items()
        ]
        found = msgspec.msgpack.decode(
            await self._call(
                "take",
                groups=groups,
                landed={sku: [_text(branch) for branch in branches] for sku, branches in landed.items()},
                loading_ms=_ms(self._lifetimes.loading_s),
            )
        )
        answers: list[int | str] = [PASSED] * len(wanted)
        for group, answer in zip(places.values(), found, strict=True):
            each = [answer] * len(group) if isinstance(answer, str) else answer
            for place, one in zip(group, each, strict=True):
                answers[place] = one
        return answers

    async def give_back(self, branches: Sequence[Key]) -> int:
        """Give back what these branches hold, once; return how many held something."""
        return int(await self._call("give_back", branches=[_text(branch) for branch in branches]))

    async def due(self, *, interval_s: float, skus_max: int) -> list[str]:
        """Return SKUs that no process has compared for that long. This process is to compare them now."""
        found = await self._call("due", interval_ms=_ms(interval_s), skus_max=skus_max)
        return [sku.decode() for sku in found]

    async def read(self, skus: Sequence[str]) -> list[Count]:
        """Return the counts of these SKUs, all of one moment."""
        now_ms, *found = msgspec.msgpack.decode(await self._call("read", skus=skus))
        return [
            Count(sku, int(tokens) if tokens else None, epoch, _flights(flights, now_ms))
            for sku, (tokens, epoch, flights) in zip(skus, found, strict=True)
        ]

    async def correct(self, corrections: Sequence[Correction]) -> list[bool]:
        """Apply corrections; return which of them were not too late."""
        new_epoch = uuid4().hex
        changes = [
            {
                "sku": each.sku,
                "epoch": each.epoch,
                "new_epoch": new_epoch,
                "units": each.units,
                "ended": [_text(branch) for branch in each.ended],
                "dead": [_text(branch) for branch in each.dead],
                "unknown_ms": _jittered_ms(self._lifetimes.unknown_s) if each.is_unknown else 0,
                "keep_ms": _jittered_ms(self._lifetimes.sku_s),
            }
            for each in corrections
        ]
        return [bool(done) for done in await self._call("correct", changes=changes)]

    async def forget(self, sku: str) -> None:
        """Remove a SKU. The next Try loads it again."""
        await self._redis.delete(
            *[f"{{stock}}:{kind}:{sku}" for kind in ("sku", "flight", "unknown", "loading")]
        )

    async def _call(self, operation: str, **request: object) -> Any:
        request["branch_ms"] = _ms(self._lifetimes.branch_s)
        return await self._script(args=[operation, msgspec.msgpack.encode(request)])


def _text(branch: Key) -> str:
    return "\0".join(branch)


def _flights(pairs: Sequence[str], now_ms: int) -> list[Flight]:
    found = []
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        gid, _, branch_id = key.partition("\0")
        units, _, taken_at_ms = value.partition(":")
        found.append(Flight((gid, branch_id), int(units), (now_ms - int(taken_at_ms)) / 1000))
    return found


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _jittered_ms(seconds: float) -> int:
    """Return a time that differs from SKU to SKU, so that they do not all expire at once."""
    return _ms(seconds * random.uniform(1 - _JITTER, 1 + _JITTER))
