"""When a failed call is repeated, and how long the client waits before.

Repeating is safe: every request carries its gid, and the coordinator answers a
repetition with the same transaction. It is useful where nobody was reached or
everybody was busy; any other error would only come again.

The wait is a full-jitter backoff (uniform between nothing and a doubling cap),
which spreads clients that failed together, on top of what the coordinator asks for.
"""

from tcc.errors import ResourceExhausted, TccError, Unavailable

BACKOFF_BASE_S = 0.05
BACKOFF_CAP_S = 2.0


def is_retryable(error: TccError) -> bool:
    """Whether the same request may succeed later.

    RESOURCE_EXHAUSTED without a hint is a message that is too large: it will never fit.
    """
    return isinstance(error, Unavailable) or (
        isinstance(error, ResourceExhausted) and error.retry_after_s > 0
    )


def pause_s(error: TccError, *, attempt: int, time_left_s: float, jitter: float) -> float | None:
    """How long to wait before the next attempt; None when the error is the caller's to see.

    `attempt` counts from 0; `jitter` is uniform in [0, 1). The pause always ends
    before the caller's time does, and there is none when too little is left.
    """
    room_s = time_left_s - error.retry_after_s
    if not is_retryable(error) or room_s < BACKOFF_BASE_S:
        return None
    # Ten doublings are far beyond the cap already; more would only overflow.
    backoff_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempt, 10), room_s)
    return error.retry_after_s + jitter * backoff_s
