"""tccctl in a pipe that gets SIGTERM while it waits for a coordinator."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tests.support.processes import ended, python
from tests.tccctl.scripted_admin import NO_SETTINGS, scripted

PATIENCE_S = 180

BULK = ("tx", "hold", "--filter", "live", "--token", "t0ken", "--reason", "r")
UNKNOWN = "  it is not known whether the action took effect: check before you repeat it\n"


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("Reconcile", ("reconcile",), "tccctl: ended by SIGTERM\n"),
        ("RunBulkAction", BULK, "tccctl: ended by SIGTERM\n" + UNKNOWN),
    ],
)
async def test_a_terminated_command_reports_what_is_open(
    method: str, arguments: tuple[str, ...], said: str
) -> None:
    asked, may_end = threading.Event(), threading.Event()

    def silence() -> Iterator[object]:
        asked.set()
        may_end.wait(PATIENCE_S)
        yield from ()

    with scripted(**{method: silence()}) as service:
        settings = NO_SETTINGS | {"TCCCTL_ADDRESS": service.address}
        async with python("-m", "tccctl", *arguments, environment=settings) as process:
            assert await asyncio.to_thread(asked.wait, PATIENCE_S)
            process.terminate()
            result = await ended(process)
        may_end.set()
    assert result == (143, "", said)
