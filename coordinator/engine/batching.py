"""How long the queues to the log and to the participants wait for company. Pure.

See `tcc.outbox`. What one commit or one RPC costs is worth some waiting; the figures
were found by `bench`.
"""

# A busy queue's batches leave this far apart, unless there is enough for one before.
PACE_S = 0.025
# How many of a queue's batches may be under way at once.
SENDERS = 2
# There is enough when what was begun here and is live could be so many batches.
_BATCHES = 2
# In a loop that is full a batch of fewer costs more than it is worth.
_WHEN_FULL = 96


def enough(begun: int, *, is_full: bool) -> int:
    """How many items are worth a batch, where `begun` transactions could bring some.

    Few are begun when requests have to wait outside for a loop that is full
    (`is_full`): some of those are waited for, too.
    """
    return max(begun // _BATCHES, _WHEN_FULL if is_full else 1)
