"""Share a saturated worker among the tenants that call it. No setting is needed.

While the worker's loop is saturated and several tenants call, each of them has the same bound on its rate.
The bound falls while the loop stays saturated, but not below the mean of the tenants' rates: a tenant
with less is not affected. It rises while the loop has room. So it ends where the loop has room for the
tenants that ask for little, or where all have the same rate.
"""

from collections.abc import Callable

from coordinator.core.errors import Overloaded

# How often the bound changes, and by how much.
_WINDOW_S = 0.25
_LOWER, _HIGHER = 0.8, 1.1
# A tenant counts for this long after its last call.
_ACTIVE_S = 2.0
# A tenant may make the calls of this time at once.
_BURST_S = 0.5
_RETRY_AFTER_MAX_S = 1.0


class _Use:
    """The calls of one tenant."""

    __slots__ = ("admitted", "called_at", "left", "left_at", "refused")

    def __init__(self, left: float, now: float) -> None:
        # In this window.
        self.admitted = self.refused = 0
        self.called_at = now
        # The calls that it may make at once, and when that was.
        self.left, self.left_at = left, now


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

    def take(self, tenant: str) -> None:
        """Count one call.

        Raises:
            Overloaded
        """
        now = self._monotonic()
        if now - self._began_at >= _WINDOW_S:
            self._begin_window(now)
        use = self._uses.get(tenant)
        if use is None:
            use = self._uses[tenant] = _Use((self.rate_max or 0.0) * _BURST_S, now)
        use.called_at = now
        if self.rate_max is not None:
            _take(use, self.rate_max, now)
        use.admitted += 1

    def _begin_window(self, now: float) -> None:
        """Set the bound for the next calls from those of the window that ends."""
        passed_s, self._began_at = now - self._began_at, now
        uses = self._uses = {
            tenant: use for tenant, use in self._uses.items() if now - use.called_at < _ACTIVE_S
        }
        is_saturated = self._is_saturated()
        if len(uses) < 2:
            self.rate_max = None
        else:
            rates = [use.admitted / passed_s for use in uses.values()]
            self._set_bound(max(rates), sum(rates) / len(rates), is_saturated=is_saturated)
        for use in uses.values():
            use.admitted = use.refused = 0

    def _set_bound(self, highest: float, mean: float, *, is_saturated: bool) -> None:
        bound = self.rate_max
        if is_saturated:
            if bound is None:
                for use in self._uses.values():
                    use.left, use.left_at = 0.0, self._began_at
            self.rate_max = max(mean, (bound or highest) * _LOWER, 1.0)
        elif bound is not None:
            self.rate_max = bound * _HIGHER if bound < 2 * highest else None


def _take(use: _Use, rate_max: float, now: float) -> None:
    most = max(1.0, rate_max * _BURST_S)
    use.left = min(most, use.left + (now - use.left_at) * rate_max)
    use.left_at = now
    if use.left < 1.0:
        # Callers that wait each for a turn of its own do not come back all at once.
        wait_s = (1.0 - use.left + use.refused) / rate_max
        use.refused += 1
        raise Overloaded(
            "the coordinator is busy, and this client has its share of it",
            retry_after_s=min(wait_s, _RETRY_AFTER_MAX_S),
        )
    use.left -= 1.0
