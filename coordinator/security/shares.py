"""Share a saturated worker among the tenants that call it. No setting is needed.

While the worker's loop is saturated and several tenants call, each of them has the same bound on its rate.
The bound falls as long as a tenant that asks for less is slowed down by a saturated loop. It rises when the
loop has room, or when every tenant reaches the bound: then all have the same rate.
"""

from collections.abc import Callable

from coordinator.core.errors import Overloaded
from coordinator.security.token_bucket import TokenBucket

# How often the bound changes, and by how much.
_WINDOW_S = 0.25
_LOWER, _HIGHER = 0.8, 1.1
# It does not fall below this share of an equal share. If the loop is saturated even so, other programs
# have the CPU, and a lower bound would not give it back.
_LEAST_SHARE = 0.25
# Nor below this: so few calls saturate no worker.
_LEAST = 100.0
# How much a window counts for the rate of all tenants without a bound.
_SMOOTHING = 0.25
# A tenant counts for this long after its last call.
_ACTIVE_S = 2.0
# A tenant may make the calls of this time at once.
_BURST_S = 0.5
_RETRY_AFTER_MAX_S = 1.0


class _Use:
    """The calls of one tenant."""

    __slots__ = ("admitted", "bucket", "called_at", "refused")

    def __init__(self, left: float, now: float) -> None:
        # In this window.
        self.admitted = self.refused = 0
        self.called_at = now
        self.bucket = TokenBucket(left, now)


class Shares:
    """The shares of all tenants at one worker."""

    def __init__(self, monotonic: Callable[[], float], is_saturated: Callable[[], bool]) -> None:
        """`is_saturated`: whether the worker's loop has hardly had a pause lately."""
        self._monotonic = monotonic
        self._is_saturated = is_saturated
        self._began_at = monotonic()
        self._uses: dict[str, _Use] = {}
        # Of each tenant, in calls per second. None: there is no bound.
        self.rate_max: float | None = None
        # Of all tenants together while there was none.
        self._unbounded_rate = 0.0

    def take(self, tenant: str, count: int = 1) -> int:
        """Count as many of `count` calls as may be made now, and return their number.

        `refusal` must be called for each of the others.
        """
        now = self._monotonic()
        if now - self._began_at >= _WINDOW_S:
            self._begin_window(now)
        use = self._uses.get(tenant)
        if use is None:
            use = self._uses[tenant] = _Use((self.rate_max or 0.0) * _BURST_S, now)
        use.called_at = now
        if self.rate_max is not None:
            count = int(min(use.bucket.refill(self.rate_max, self.rate_max * _BURST_S, now), count))
            use.bucket.left -= count
        use.admitted += count
        return count

    def refusal(self, tenant: str) -> Overloaded:
        """Return the refusal of a call that `take` did not admit just now."""
        assert self.rate_max is not None, "without a bound every call is admitted"
        use = self._uses[tenant]
        # Callers that wait each for a turn of its own do not come back all at once.
        wait_s = use.bucket.wait_s(self.rate_max, ahead=use.refused)
        use.refused += 1
        return Overloaded(
            "the coordinator is busy, and this client has its share of it",
            retry_after_s=min(wait_s, _RETRY_AFTER_MAX_S),
        )

    def _begin_window(self, now: float) -> None:
        """Set the bound for the next calls from those of the window that ends."""
        passed_s, self._began_at = now - self._began_at, now
        uses = self._uses = {
            tenant: use for tenant, use in self._uses.items() if now - use.called_at < _ACTIVE_S
        }
        total = sum([use.admitted for use in uses.values()]) / passed_s
        if self.rate_max is None:
            self._unbounded_rate += (total - self._unbounded_rate) * _SMOOTHING
        # Ask always: it measures the time since it was asked before.
        is_saturated = self._is_saturated()
        if len(uses) < 2:
            self.rate_max = None
        elif is_saturated and not all(use.refused for use in uses.values()):
            self._lower(total)
        elif self.rate_max is not None:
            self._raise(passed_s)
        for use in uses.values():
            use.admitted = use.refused = 0

    def _lower(self, total: float) -> None:
        count = len(self._uses)
        mean, least = total / count, max(_LEAST, self._unbounded_rate / count * _LEAST_SHARE)
        # The first bound is low at once: what was begun before has yet to be done.
        lower = max(least, mean, (self.rate_max or 0.0) * _LOWER)
        if self.rate_max is None:
            for use in self._uses.values():
                use.bucket = TokenBucket(lower * _BURST_S, self._began_at)
        self.rate_max = lower

    def _raise(self, passed_s: float) -> None:
        assert self.rate_max is not None
        self.rate_max = self.rate_max * _HIGHER if self.rate_max < 2 * self._highest(passed_s) else None

    def _highest(self, passed_s: float) -> float:
        return max(use.admitted for use in self._uses.values()) / passed_s
