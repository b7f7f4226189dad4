"""Version 7 UUIDs: unique, and rising with time, which keeps the log's index small and warm."""

import secrets
import time
from uuid import UUID

_VERSION = 7 << 76
_VARIANT = 0b10 << 62
_RANDOM_A = 0xFFF << 64
_RANDOM_B = (1 << 62) - 1


def uuid7() -> UUID:
    """A new UUID of 48 bits of milliseconds and 74 random bits. Source: RFC 9562, section 5.7."""
    random = secrets.randbits(80)
    milliseconds = time.time_ns() // 1_000_000
    return UUID(int=milliseconds << 80 | _VERSION | random & _RANDOM_A | _VARIANT | random & _RANDOM_B)
