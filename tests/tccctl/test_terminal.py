"""tccctl on a real terminal: a process on a pseudo-terminal, typed at."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest
from google.rpc.code_pb2 import Code

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tests.tccctl.scripted_admin import NO_SETTINGS, ScriptedAdmin, refusal, scripted

PATIENCE_S = 180


class Terminal:
    """The output of a process on its terminal, and a keyboard."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self.process = process
        self.keyboard = keyboard
        self.raw = ""

    @property
    def text(self) -> str:
        """Return the text without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw)

    def until(self, words: str) -> None:
        """Return when it has shown this text."""
        deadline = time.monotonic() + PATIENCE_S
        while words not in self.text:
            assert self._read(deadline - time.monotonic()), self.text

    def type(self, keys: str) -> None:
        os.write(self.keyboard, keys.encode())

    def end(self) -> int:
        """Return the exit status after it has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(PATIENCE_S)

    def _read(self, patience_s: float) -> bool:
        ready, _, _ = select.select([self.keyboard], [], [], max(0.0, patience_s))
        try:
            found = os.read(self.keyboard, 65_536) if ready else b""
        except OSError:  # so Linux says that the other end is closed
            found = b""
        self.raw += found.decode(errors="replace")
        return bool(found)


@contextlib.contextmanager
def terminal(service: ScriptedAdmin, *arguments: str) -> Iterator[Terminal]:
    keyboard, screen = pty.openpty()
    environment = os.environ | NO_SETTINGS | {"TCCCTL_ADDRESS": service.address, "TERM": "xterm-256color"}
    environment |= {"COLUMNS": "200", "LINES": "40"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        # The terminal must be its controlling one, or Ctrl-C would reach no process.
        ["setsid", "--ctty", sys.executable, "-m", "tccctl", *arguments],
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env=environment,
    )
    os.close(screen)
    try:
        yield Terminal(process, keyboard)
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)


ORDER = common.Transaction(gid="order-1", state=common.TRANSACTION_STATE_CONFIRMING, stuck=True, version=12)


def test_a_terminal_gets_colours_and_a_prompt_for_the_reason() -> None:
    held = common.Transaction(gid="order-1", state=common.TRANSACTION_STATE_CONFIRMING, held=True, version=13)
    with (
        scripted(
            InspectTransaction=admin.InspectTransactionResponse(transaction=ORDER),
            HoldTransaction=admin.HoldTransactionResponse(transaction=held),
        ) as service,
        terminal(service, "tx", "hold", "order-1") as screen,
    ):
        screen.until("reason: ")
        assert "order-1 is CONFIRMING, stuck, version 12" in screen.text
        screen.type("ticket 4711\n")
        screen.until("holding order-1: CONFIRMING, held, version 13")
        assert screen.end() == 0
    assert service.requests[-1].operator_context.reason == "ticket 4711"


def test_a_list_on_a_terminal_is_a_coloured_table() -> None:
    found = admin.SearchTransactionsResponse(transactions=[ORDER])
    with scripted(SearchTransactions=found) as service, terminal(service, "tx", "list") as screen:
        assert screen.end() == 0
    assert "order-1" in screen.text
    assert re.search(r"\x1b\[1;31mstuck", screen.raw)


@pytest.mark.parametrize(("answer", "status", "asked"), [("y\n", 0, 2), ("n\n", 1, 1)])
def test_a_permanent_outcome_requires_a_confirmation(answer: str, status: int, asked: int) -> None:
    inspection = admin.InspectTransactionResponse(transaction=ORDER)
    with (
        scripted(InspectTransaction=inspection, ResolveBranch=admin.ResolveBranchResponse()) as service,
        terminal(service, "tx", "resolve", "order-1", "stock", "confirmed", "--reason", "r") as screen,
    ):
        screen.until("[y/N]")
        screen.type(answer)
        assert screen.end() == status
    assert len(service.requests) == asked


def stats(**fields: object) -> admin.GetStatsResponse:
    return admin.GetStatsResponse(**({"trying": 4} | fields))


def test_watch_keeps_the_last_frame_without_a_response_and_exits_on_q() -> None:
    silence = refusal(Code.UNAVAILABLE, "LOG_UNAVAILABLE", "the log is down")
    answers = (stats(), stats(trying=5), silence, silence, stats(trying=6), *[stats(trying=6)] * 10_000)
    with (
        scripted(GetStats=answers) as service,
        terminal(service, "watch", "--every", "0.1") as screen,
    ):
        screen.until("5 TRYING")
        screen.until("the log is down")
        screen.until("6 TRYING")
        screen.type("q")
        assert screen.end() == 0
    assert "5 TRYING" in screen.text.rpartition("the log is down")[2]
    assert "\x1b[?1049l" in screen.raw  # the screen from before is back


def test_watch_exits_on_ctrl_c() -> None:
    with (
        scripted(GetStats=(stats(),) * 10_000) as service,
        terminal(service, "watch") as screen,
    ):
        screen.until("4 TRYING")
        screen.type("\x03")
        assert screen.end() == 0
    assert "\x1b[?1049l" in screen.raw


def test_watch_restores_the_terminal_on_sigterm() -> None:
    with (
        scripted(GetStats=(stats(),) * 10_000) as service,
        terminal(service, "watch", "--every", "600") as screen,
    ):
        before = termios.tcgetattr(screen.keyboard)
        screen.until("4 TRYING")
        assert termios.tcgetattr(screen.keyboard) != before
        screen.process.send_signal(signal.SIGTERM)
        screen.until("tccctl: ended by SIGTERM")
        assert termios.tcgetattr(screen.keyboard) == before
        assert screen.end() == 143
    assert "\x1b[?1049l" in screen.raw.partition("tccctl: ended by SIGTERM")[0]
