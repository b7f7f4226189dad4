"""How long the queues to the log and to the participants wait for company. Pure.

See `tcc.outbox`. What one commit or one RPC costs is worth some waiting; the figures
were found by `bench`.
"""

from tcc.outbox import Pace

# How many of a queue's batches may be under way at once.
SENDERS = 2
# How far apart a busy queue's batches leave, unless there is enough for one before.
_SECONDS = 0.025
# There is enough when what was begun here and is live could be so many batches.
_BATCHES = 2
# In a loop that is full a batch of fewer costs more than it is worth.
_WHEN_FULL = 96
# The same where so many are begun already: then they have longer to gather.
_WHEN_FULL_OF_MANY = Pace(seconds=0.05, enough=144)


def pace(begun: int, *, is_full: bool) -> Pace:
    """Of a queue to which `begun` transactions could bring some items.

    Few are begun when requests have to wait outside for a loop that is full
    (`is_full`): some of those are waited for, too.
    """
    half = begun // _BATCHES
    if not is_full:
        return Pace(_SECONDS, max(half, 1))
    if begun < _WHEN_FULL_OF_MANY.enough:
        return Pace(_SECONDS, _WHEN_FULL)
    return Pace(_WHEN_FULL_OF_MANY.seconds, max(half, _WHEN_FULL_OF_MANY.enough))
