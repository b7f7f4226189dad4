"""How many calls per second each client may make: a token bucket that holds the calls of one second."""

from collections.abc import Callable

from coordinator.core.errors import Refused, TenantLimit
from coordinator.security.caller import Client
from coordinator.security.shares import Shares
from coordinator.security.token_bucket import TokenBucket


class Rates:
    """The rates of all clients at one worker."""

    def __init__(self, monotonic: Callable[[], float], shares: Shares | None = None) -> None:
        """`shares`: beside the clients' own limits; None: they do not share anything."""
        self._monotonic = monotonic
        self._shares = shares
        # By client.
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, client: Client, count: int = 1) -> int:
        """Count as many of `count` calls as may be made now, and return their number.

        `refusal` must be called for each of the others.
        """
        rate, now = client.calls_per_s, self._monotonic()
        most = max(1.0, rate)
        bucket = self._buckets.get(client.name)
        if bucket is None:
            bucket = self._buckets[client.name] = TokenBucket(most, now)
        admitted = int(min(bucket.refill(rate, most, now), count))
        if admitted and self._shares is not None:
            admitted = self._shares.take(client.name, admitted)
        bucket.left -= admitted
        return admitted

    def refusal(self, client: Client) -> Refused:
        """Return the TenantLimit or Overloaded of a call that `take` did not admit just now."""
        bucket, rate = self._buckets[client.name], client.calls_per_s
        if bucket.left >= 1.0 and self._shares is not None:
            return self._shares.refusal(client.name)
        return TenantLimit(
            f"{client.name!r} may make {rate:g} calls per second", retry_after_s=bucket.wait_s(rate)
        )

    def check(self, client: Client) -> None:
        """Count one call.

        Raises:
            TenantLimit, Overloaded
        """
        if not self.take(client):
            raise self.refusal(client)
