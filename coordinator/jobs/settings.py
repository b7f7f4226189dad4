"""How often the jobs run, and how much each may do at once."""

from msgspec import Struct


class RecoverySettings(Struct, frozen=True, kw_only=True):
    """How often the jobs run, and how much each may do at once."""

    lease_s: float = 3.0
    heartbeat_every_s: float = 1.0
    sweep_every_s: float = 0.2
    # How often to look for due transactions that other coordinators parked.
    poll_every_s: float = 1.0
    # How often to look whether they wait for participants that are configured no more.
    unconfigured_every_s: float = 30.0
    adopt_every_s: float = 1.0
    purge_every_s: float = 10.0
    # What was interrupted comes back in bites, with pauses between them, so that what is
    # asked now finds its turn. A pause is so many times as long as it took to take the bite,
    # which tells how fast the machine is and how busy; fewer times while nobody asks.
    claim_max: int = 100
    busy_throttle: float = 12.0
    idle_throttle: float = 2.0
    throttle_max_s: float = 0.5
    # Bites of a run, which goes on at the next tick.
    chunks_max: int = 32
    # How many a statement deletes, and how many statements a run may take: together
    # more than one worker can end meanwhile.
    purge_max: int = 5_000
    purge_batches_max: int = 20
    retention_s: float = 7 * 24 * 3600.0

    def throttle_s(self, took_s: float, *, is_busy: bool) -> float:
        """How long to leave the loop, the log and the participants to others after a bite."""
        pauses = self.busy_throttle if is_busy else self.idle_throttle
        return min(pauses * took_s, self.throttle_max_s)
