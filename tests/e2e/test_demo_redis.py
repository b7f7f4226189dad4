"""`tccd demo --redis`: every confirmed order is an event, and is shipped."""

import json
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from participants.child_process import run
from tests.support.redis_process import needs_redis

TCCD = Path(sysconfig.get_path("scripts")) / "tccd"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory for temporary files, with a path short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="tcc-test-") as scratch:
        yield Path(scratch)
        assert list(Path(scratch).iterdir()) == []


@pytest.mark.slow
@needs_redis
async def test_every_confirmed_order_of_the_demo_is_shipped(scratch: Path) -> None:
    ended = await run(
        *(TCCD, "demo", "--redis", "--json", "--orders=60", "--seed=3"),
        timeout_s=400,
        environment={"TMPDIR": str(scratch)},
    )
    assert ended.status == 0, ended.error
    result = json.loads(ended.out.splitlines()[-1])
    assert (result["undecided"], result["audit"]) == (0, "ok")
    assert {"shipping", "redis"} < {kill["victim"] for kill in result["killed"]}
    assert result["shipments"] == result["confirmed"] > 0
