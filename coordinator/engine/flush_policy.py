"""How long the queues to the log and to the participants wait for more items. Pure.

See `tcc._internal.batcher`. One commit or one RPC costs more than a short wait. The figures
were measured with `bench`.
"""

from tcc._internal.batcher import FlushPolicy

# How many of a queue's batches may be under way at once.
MAX_IN_FLIGHT = 2
# The interval between batches of a busy queue, unless there is enough for a batch before.
_SECONDS = 0.025
# There is enough when the live transactions begun here would make this many batches.
_BATCHES = 2
# In a saturated loop, a smaller batch costs more than it gains.
_WHEN_SATURATED = 96
# The same when this many are begun already: they may wait longer for each other.
_WHEN_SATURATED_WITH_MANY = FlushPolicy(linger_s=0.05, min_items=144)


def flush_policy(begun: int, *, is_saturated: bool) -> FlushPolicy:
    """Return the policy of a queue to which `begun` transactions could add items.

    If the loop is saturated (`is_saturated`), requests wait outside and few are begun.
    The queue waits for some of those requests, too.
    """
    half = begun // _BATCHES
    if not is_saturated:
        return FlushPolicy(_SECONDS, max(half, 1))
    if begun < _WHEN_SATURATED_WITH_MANY.min_items:
        return FlushPolicy(_SECONDS, _WHEN_SATURATED)
    return FlushPolicy(_WHEN_SATURATED_WITH_MANY.linger_s, max(half, _WHEN_SATURATED_WITH_MANY.min_items))
