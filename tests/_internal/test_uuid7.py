"""UUIDs of version 7: as RFC 9562 lays them out, rising with time, none twice."""

import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from tcc._internal.uuid7 import uuid7


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


def test_threads_never_make_the_same() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: uuid7(), range(20_000)))
    assert len(set(made)) == len(made)


_FORKED = """
import os
from tcc._internal.uuid7 import uuid7

uuid7()
reading, writing = os.pipe()
child = os.fork()
made = [uuid7()[-16:] for _ in range(300)]
if not child:
    os.write(writing, " ".join(made).encode())
    os._exit(0)
os.waitpid(child, 0)
os.close(writing)
theirs = os.fdopen(reading).read().split()
print(len(theirs), len(set(made) & set(theirs)))
"""


def test_a_forked_process_makes_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["300", "0"]
