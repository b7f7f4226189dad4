"""UUIDs of version 7: as RFC 9562 lays them out, rising with time, none twice."""

import time
import uuid

from tcc.uuid7 import uuid7


def test_layout_is_that_of_the_rfc() -> None:
    before = time.time_ns() // 1_000_000
    made = [uuid7() for _ in range(1_000)]
    after = time.time_ns() // 1_000_000
    for text in made:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122
        assert before <= parsed.int >> 80 <= after
    assert len(set(made)) == len(made)


def test_every_random_bit_is_used() -> None:
    made = [uuid.UUID(uuid7()).int for _ in range(1_000)]
    ones, zeros = 0, 0
    for value in made:
        ones |= value
        zeros |= ~value
    random_bits = 0xFFF << 64 | (1 << 62) - 1
    assert ones & zeros & random_bits == random_bits
