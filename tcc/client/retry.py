"""Which failed calls are retried, and how long the client waits before a retry.

A retry is safe: every request has a gid, and for a repeated gid the coordinator returns
the same transaction. A retry is useful if no coordinator was reached, or if all were
busy. Any other error would occur again.

The wait is the delay that the coordinator asks for, plus a full-jitter backoff: uniform
between zero and a cap that doubles. This spreads clients that failed at the same time.
"""

from tcc.errors import ResourceExhausted, TccError, Unavailable

BACKOFF_BASE_S = 0.05
BACKOFF_CAP_S = 2.0


def is_retryable(error: TccError) -> bool:
    """Return whether the same request may succeed later.

    RESOURCE_EXHAUSTED without a retry hint means that a message is too large: it never succeeds.
    """
    return isinstance(error, Unavailable) or (
        isinstance(error, ResourceExhausted) and error.retry_after_s > 0
    )


def pause_s(error: TccError, *, attempt: int, time_left_s: float, jitter: float) -> float | None:
    """Return the seconds to wait before the next attempt; None if the error must be raised.

    Args:
        error: The error of the last attempt.
        attempt: The number of attempts before it, from 0.
        time_left_s: Seconds until the caller's timeout. The wait always ends before it; if too
            little time is left, there is no retry.
        jitter: A random number, uniform in [0, 1).
    """
    room_s = time_left_s - error.retry_after_s
    if not is_retryable(error) or room_s < BACKOFF_BASE_S:
        return None
    # Ten doublings exceed the cap by far; more would overflow.
    backoff_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempt, 10), room_s)
    return error.retry_after_s + jitter * backoff_s
