"""Version 7 UUIDs: unique and ordered by time, which keeps the log's index small and cached."""

import os
import time

# The random ends of UUIDs, each used once. One system call makes many of them: a call for each
# UUID would release the interpreter's lock and wait for it behind other threads.
_ENDS_PER_CALL = 256
_BYTES_PER_END = 10
_unused_ends: list[str] = []
# A forked child that used its parent's ends would repeat its parent's UUIDs.
os.register_at_fork(after_in_child=_unused_ends.clear)

# A digit with its two high bits set to the variant.
_VARIANT_OF = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def uuid7() -> str:
    """Return a new UUID of 48 bits of milliseconds and 74 random bits, as text.

    Source: RFC 9562, section 5.7.
    """
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-{_end()}"


def _end() -> str:
    try:
        return _unused_ends.pop()
    except IndexError:  # checking first would race with another thread
        digits = os.urandom(_BYTES_PER_END * _ENDS_PER_CALL).hex()
        step = 2 * _BYTES_PER_END
        end, *others = [_written(digits[start : start + step]) for start in range(0, len(digits), step)]
        _unused_ends.extend(others)
        return end


def _written(digits: str) -> str:
    """Return random digits after the version and the variant. One digit is unused, and one is half used."""
    return f"7{digits[:3]}-{_VARIANT_OF[digits[3]]}{digits[4:7]}-{digits[7:19]}"
