"""tccctl in a pipe that gets SIGTERM, while it waits for a coordinator and otherwise."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from google.protobuf.empty_pb2 import Empty

from tccctl import termination
from tccctl.output import Output, OutputFormat
from tccctl.session import Session, session
from tccctl.settings import Options
from tccctl.termination import Terminated, raise_when_told_to_end
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


@pytest.fixture
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    raise_when_told_to_end()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    termination._received = termination._Received()


@pytest.fixture
def own_session() -> Iterator[Session]:
    with session(Options(address="127.0.0.1:1"), Output(OutputFormat.JSON), NO_SETTINGS) as opened:
        yield opened


class Stub:
    """A method that waits for a reply until it may end, and notes what is raised in it."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self.may_end = threading.Event()
        self.raised: list[BaseException] = []

    def wait(self, _request: object, timeout: float) -> object:
        try:
            os.kill(os.getpid(), self._number)
            self.may_end.wait(PATIENCE_S)
        except BaseException as error:
            self.raised.append(error)
            raise
        return object()


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_raises_nothing_within_a_call(
    own_session: Session, number: signal.Signals, error: type[BaseException]
) -> None:
    stub = Stub(number)
    with pytest.raises(error):
        replace(own_session, stub=stub).ask("wait", Empty())
    assert stub.raised == []
    stub.may_end.set()


class Collected:
    """An object that is collected while the signal arrives: what is raised there is lost."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("signals")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_was_lost_ends_the_next_call(own_session: Session) -> None:
    calls: list[object] = []

    def ask(request: object, timeout: float) -> object:
        calls.append(request)
        return request

    Collected()
    with pytest.raises(Terminated):
        replace(own_session, stub=SimpleNamespace(ask=ask)).ask("ask", Empty())
    assert calls == []
