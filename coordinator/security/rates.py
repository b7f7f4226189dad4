"""How many calls per second each client may make: a token bucket that holds the calls of one second."""

from collections.abc import Callable

from coordinator.core.errors import TenantLimit
from coordinator.security.caller import Client
from coordinator.security.shares import Shares


class Rates:
    """The rates of all clients at one worker."""

    def __init__(self, monotonic: Callable[[], float], shares: Shares | None = None) -> None:
        """`shares`: beside the clients' own limits; None: they do not share anything."""
        self._monotonic = monotonic
        self._shares = shares
        # By client: the calls that are left, and when that was.
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, client: Client) -> None:
        """Count one call.

        Raises:
            TenantLimit, Overloaded
        """
        rate, now = client.calls_per_s, self._monotonic()
        most = max(1.0, rate)
        left, at = self._left.get(client.name, (most, now))
        left = min(most, left + (now - at) * rate)
        if left < 1.0:
            wait_s = (1.0 - left) / rate
            raise TenantLimit(f"{client.name!r} may make {rate:g} calls per second", retry_after_s=wait_s)
        if self._shares is not None:
            self._shares.take(client.name)
        self._left[client.name] = (left - 1.0, now)
