"""How many calls per second each client may make: a token bucket that holds the calls of one second."""

from collections.abc import Callable

from coordinator.core.errors import TenantLimit
from coordinator.security.caller import Client


class Rates:
    """The rates of all clients at one worker."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # By client: the calls that are left, and when that was.
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, client: Client) -> None:
        """Count one call.

        Raises:
            TenantLimit
        """
        rate, now = client.calls_per_s, self._monotonic()
        most = max(1.0, rate)
        left, at = self._left.get(client.name, (most, now))
        left = min(most, left + (now - at) * rate)
        if left < 1.0:
            wait_s = (1.0 - left) / rate
            raise TenantLimit(f"{client.name!r} may make {rate:g} calls per second", retry_after_s=wait_s)
        self._left[client.name] = (left - 1.0, now)
