"""The bounds of what one worker drives."""

from msgspec import Struct


class EngineLimits(Struct, frozen=True, kw_only=True):
    """Bounds beyond which new work is refused before anything is written."""

    live_max: int = 20_000
    # Of the payloads and results of live transactions.
    live_bytes_max: int = 2**30
    # Writes that wait for the log. A request beyond this would wait too long; it is refused instead.
    log_backlog_max: int = 4_096
    # How much of `live_max` interactive transactions may fill. While idle, they only wait.
    interactive_share: float = 0.5
    # Of all results of a transaction.
    results_bytes_max: int = 2**20


class TenantLimits(Struct, frozen=True, kw_only=True):
    """Bounds on the live transactions of one tenant: their number, and the bytes of payloads and results."""

    live_max: int
    bytes_max: int
