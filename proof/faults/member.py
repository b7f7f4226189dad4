"""A process of the system: it is started again whenever it ends, as a process manager would."""

import asyncio
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from participants.child_process import Child, ChildError
from proof.faults.failpoints import VARIABLE, rules
from proof.faults.plan import Rule

_LISTENING = r"listening on (\S+)"
_KILLED = "killed at failpoint "
_RESTART_PAUSE_S = 0.05


class Member:
    """`command` gets the address to listen on and answers the program with its arguments.

    `hand`: the failpoints that are to kill it, one incarnation each.
    """

    def __init__(self, name: str, command: Callable[[str], Sequence[str]], home: Path) -> None:
        self.name = name
        self.address = "127.0.0.1:0"
        self.hand: deque[Rule] = deque()
        # What the present incarnation is armed with.
        self.armed: Rule | None = None
        # How often failpoints may still kill it; none is armed after that.
        self.lives = 0
        # The failpoints that killed it.
        self.killed_at: list[str] = []
        # Every end: when, in seconds since the epoch, and how.
        self.ends: list[tuple[float, str]] = []
        # How often it was killed from outside.
        self.kills = 0
        # Unexpected ends.
        self.failures: list[str] = []
        self.environment: Mapping[str, str] = {}
        self._command = command
        self._log = home / f"{name}.log"
        self._log_read_to = 0
        self._child: Child | None = None
        self._end_is_wanted = False
        self._is_over = False
        self._changed = asyncio.Condition()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Wait until the process is ready.

        Raises:
            ChildError: it does not get ready.
        """
        await self._spawn()
        await self.ready()
        self._keeper = asyncio.create_task(self._keep())

    async def ready(self) -> None:
        """Wait until this incarnation serves.

        Raises:
            ChildError: it ends before that, or takes too long.
        """
        assert self._child is not None
        [self.address] = await self._child.lines(_LISTENING)

    async def comes_back(self, timeout_s: float = 60.0) -> None:
        """Wait until an incarnation serves, even if some end before."""
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    await self.ready()
                except ChildError:
                    await asyncio.sleep(_RESTART_PAUSE_S)
                else:
                    return

    def arm(self, lives: int) -> None:
        """Arms it now, unless it is armed; `lives` incarnations may die of their failpoints."""
        self.lives = lives
        if self.armed is None:
            self.kill()

    @property
    def may_be_killed(self) -> bool:
        """Return whether failpoints are still to kill the process."""
        return self.armed is not None or bool(self.hand)

    def kill(self) -> None:
        """SIGKILL from outside."""
        self.kills += 1
        self._end_is_wanted = True
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM: an end in order, after which it is started again."""
        self._end_is_wanted = True
        self._signal(signal.SIGTERM)

    def stop_clock(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def changed(self, timeout_s: float) -> None:
        """Wait until an incarnation ends, at most for the given time."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), timeout_s)
            except TimeoutError:
                return

    async def restart(self) -> None:
        """An end in order and a new start. Returns when the new incarnation is ready.

        Raises:
            ChildError: it does not get ready.
        """
        before = self._child
        self.terminate()
        while self._child is before:
            await self.changed(1.0)
        await self.ready()

    async def stop(self) -> None:
        """Stop the process without a restart.

        Raises:
            ChildError: it did not end as it should.
        """
        self._is_over = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._child is None:
            return
        if self.armed is not None:
            self._child.kill()
        await self._child.stop()

    def _signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.signal(number)

    async def _spawn(self) -> None:
        self.armed = self.hand.popleft() if self.hand and self.lives else None
        environment = dict(self.environment)
        if self.armed is not None:
            environment[VARIABLE] = rules({self.armed.name: self.armed.hits})
        self._log_read_to = self._log.stat().st_size if self._log.exists() else 0
        command = self._command(self.address)
        self._child = await Child.start(self.name, *command, log=self._log, environment=environment)

    async def _keep(self) -> None:
        while not self._is_over:
            assert self._child is not None
            status = await self._child.ended()
            self._reap(status)
            await asyncio.sleep(_RESTART_PAUSE_S)
            await self._spawn()
            async with self._changed:
                self._changed.notify_all()

    def _reap(self, status: int) -> None:
        name = self._failpoint()
        was_wanted, self._end_is_wanted = self._end_is_wanted, False
        self.ends.append((time.time(), name or f"status {status}"))
        if name is not None:
            self.killed_at.append(name)
            self.lives -= 1
            return
        if self.armed is not None:  # something else was faster
            self.hand.appendleft(self.armed)
        if not was_wanted or status not in (0, -signal.SIGKILL, -signal.SIGTERM):
            self.failures.append(
                f"{self.name} ended unexpectedly: status {status} at {time.time():.3f}: {self._last_words()}"
            )

    def _failpoint(self) -> str | None:
        """The failpoint that killed the last incarnation."""
        lines = self._tail().splitlines()
        return next((line.removeprefix(_KILLED) for line in lines if line.startswith(_KILLED)), None)

    def _last_words(self) -> str:
        return " | ".join(self._tail().splitlines()[-5:])

    def _tail(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._log_read_to)
            return log.read().decode(errors="replace")
