"""How often the jobs run, and how much each may do at once."""

from msgspec import Struct


class RecoverySettings(Struct, frozen=True, kw_only=True):
    """How often the jobs run, and how much each may do at once."""

    lease_s: float = 3.0
    heartbeat_every_s: float = 1.0
    sweep_every_s: float = 0.2
    # How often to check for due transactions that other coordinators parked.
    poll_every_s: float = 1.0
    # How often to claim those that wait for participants that are not configured here. This is also how
    # long after its expiry such a transaction may be decided if no coordinator knows the participant.
    unconfigured_every_s: float = 30.0
    adopt_every_s: float = 1.0
    # How often to search for owners that the log does not know.
    register_unknown_every_s: float = 10.0
    purge_every_s: float = 10.0
    # Interrupted work is resumed in chunks, with pauses between them, so that new requests are
    # served in the meantime. A pause is the time that it took to take the chunk, which measures
    # how fast and how busy the machine is, multiplied by one of these factors.
    claim_max: int = 100
    busy_throttle: float = 12.0
    idle_throttle: float = 2.0
    throttle_max_s: float = 0.5
    # Chunks of one run. The next run continues.
    chunks_max: int = 32
    # How many rows a statement deletes, and how many statements a run may take: together
    # more than one worker can end in the meantime.
    purge_max: int = 5_000
    purge_batches_max: int = 20
    # The same for the erasure of payloads, which reads and writes each row.
    erase_max: int = 500
    erase_batches_max: int = 200
    retention_s: float = 7 * 24 * 3600.0

    def throttle_s(self, took_s: float, *, is_busy: bool) -> float:
        """Return how long to leave the loop, the log and the participants to others after a chunk."""
        pauses = self.busy_throttle if is_busy else self.idle_throttle
        return min(pauses * took_s, self.throttle_max_s)
