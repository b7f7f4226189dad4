"""The circuit breaker of one participant. Pure: time is an argument.

CLOSED: calls go out; `failures_to_open` failed calls in a row open it.
OPEN: nothing goes out until `probe_at`. HALF-OPEN is the moment after that: one
call goes out as a probe. It either closes the breaker, or opens it for twice as long.
Source: M. Nygard, "Release It!", Pragmatic Bookshelf, 2007.
"""

from msgspec import Struct
from msgspec.structs import replace


class BreakerPolicy(Struct, frozen=True, kw_only=True):
    """When to open, and for how long."""

    failures_to_open: int = 5
    open_first_s: float = 0.5
    open_max_s: float = 10.0


class Breaker(Struct, frozen=True, kw_only=True):
    """The state of the breaker of one participant."""

    policy: BreakerPolicy = BreakerPolicy()
    # Consecutive: those that opened it, and the probes since then.
    failures: int = 0
    # Closed while None.
    probe_at: float | None = None
    open_s: float = 0.0
    probing: bool = False

    @property
    def closed(self) -> bool:
        return self.probe_at is None

    def allows(self, now: float) -> bool:
        """Return whether a call may go out: any while closed, one probe once the pause is over."""
        return self.probe_at is None or (now >= self.probe_at and not self.probing)

    def wait_s(self, now: float) -> float:
        """Return how long to wait before the next call."""
        if self.probe_at is None:
            return 0.0
        return max(self.probe_at - now, self.policy.open_first_s if self.probing else 0.0)

    def sent(self) -> "Breaker":
        """Return the breaker after a call was sent."""
        return self if self.probe_at is None else replace(self, probing=True)

    def succeeded(self) -> "Breaker":
        """Return the breaker after any answer of the participant."""
        if self.probe_at is None and not self.failures:
            return self
        return Breaker(policy=self.policy)

    def failed(self, now: float) -> "Breaker":
        """Return the breaker after a call that failed to connect, or got no answer in time."""
        if self.probe_at is not None and not self.probing:
            return self  # it was sent before the breaker opened, and is no new information
        if self.probe_at is None and self.failures + 1 < self.policy.failures_to_open:
            return replace(self, failures=self.failures + 1)
        open_s = self.policy.open_first_s
        if self.probe_at is not None:
            open_s = min(self.open_s * 2, self.policy.open_max_s)
        failures = self.failures + 1
        return replace(self, failures=failures, probe_at=now + open_s, open_s=open_s, probing=False)
