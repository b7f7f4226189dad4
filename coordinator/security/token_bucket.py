"""A token bucket: how many calls may be made now, as time refills it."""


class TokenBucket:
    """The calls that may be made at once. The rate may be another one each time."""

    __slots__ = ("_refilled_at", "left")

    def __init__(self, left: float, now: float) -> None:
        self.left = left
        self._refilled_at = now

    def refill(self, rate: float, most: float, now: float) -> float:
        """Add what `rate` (calls per second) has added since it was last refilled; return what fits now."""
        self.left = min(most, self.left + (now - self._refilled_at) * rate)
        self._refilled_at = now
        return self.left

    def wait_s(self, rate: float, ahead: int = 0) -> float:
        """Return when the next call fits, after `ahead` others that wait for it as well."""
        return (1.0 - self.left + ahead) / rate
