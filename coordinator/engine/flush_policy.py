"""How long the queues to the log and to the participants wait for company. Pure.

See `tcc._internal.batcher`. What one commit or one RPC costs is worth some waiting; the figures
were found by `bench`.
"""

from tcc._internal.batcher import FlushPolicy

# How many of a queue's batches may be under way at once.
MAX_IN_FLIGHT = 2
# How far apart a busy queue's batches leave, unless there is enough for one before.
_SECONDS = 0.025
# There is enough when what was begun here and is live could be so many batches.
_BATCHES = 2
# In a loop that is full a batch of fewer costs more than it is worth.
_WHEN_SATURATED = 96
# The same where so many are begun already: then they have longer to gather.
_WHEN_SATURATED_WITH_MANY = FlushPolicy(linger_s=0.05, min_items=144)


def flush_policy(begun: int, *, is_saturated: bool) -> FlushPolicy:
    """Of a queue to which `begun` transactions could bring some items.

    Few are begun when requests have to wait outside for a loop that is full
    (`is_saturated`): some of those are waited for, too.
    """
    half = begun // _BATCHES
    if not is_saturated:
        return FlushPolicy(_SECONDS, max(half, 1))
    if begun < _WHEN_SATURATED_WITH_MANY.min_items:
        return FlushPolicy(_SECONDS, _WHEN_SATURATED)
    return FlushPolicy(_WHEN_SATURATED_WITH_MANY.linger_s, max(half, _WHEN_SATURATED_WITH_MANY.min_items))
