"""Backoff: the delay before the next attempt."""

from coordinator.core.model import RetryPolicy

# Beyond this many doublings every sensible cap is reached; it keeps the float finite.
_DOUBLINGS_MAX = 40


def delay_s(attempts: int, policy: RetryPolicy, jitter: float) -> float:
    """Return the wait in seconds before the next attempt, after `attempts` failed ones.

    Capped exponential backoff with full jitter: uniform between 0 and the
    ceiling, which doubles with each attempt up to `policy.delay_max_s`. `jitter`
    is uniform in [0, 1). Source: M. Brooker, "Exponential Backoff and Jitter",
    AWS Architecture Blog, 2015.
    """
    doublings = min(max(attempts - 1, 0), _DOUBLINGS_MAX)
    ceiling_s = min(policy.delay_max_s, policy.delay_first_s * 2.0**doublings)
    return ceiling_s * jitter
