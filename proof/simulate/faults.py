"""What is done to the cluster: each fault strikes at a random moment, lasts a while and is over.

Each seed draws its own mixture, and leaves some kinds out altogether: faults that
always come together hide one another.
"""

import asyncio
import random
from collections.abc import Callable

from proof.simulate.log_database import CellTrouble
from proof.simulate.world import World

JUMP_S = 3_600.0
_QUIET_SHARE = 0.05
_LEFT_OUT_SHARE = 0.4


class Faults:
    """Strikes until it is cancelled; `heal` then ends whatever lasts."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._pause_s = rng.choice((0.3, 1.0, 3.0))
        self._kinds: dict[Callable[[], None], float] = {
            kind: rng.uniform(0.2, 2.0)
            for kind in (
                self.crash,
                self.crash_soon_again,
                self.pause,
                self.drain,
                self.cut,
                self.slow,
                self.lose,
                self.double,
                self.delay_minutes,
                self.break_streams,
                self.stall,
                self.log_down,
                self.log_unsure,
                self.clock_jump,
                self.bad_handlers,
                self.bad_database,
                *([self.cell_unavailable] if world.cells > 1 else []),
            )
            if rng.random() > _LEFT_OUT_SHARE
        }

    async def strike(self) -> None:
        if not self._kinds or self._rng.random() < _QUIET_SHARE:
            self._world.observer.fault("nothing", "", "a quiet run")
            return
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._pause_s))
            self._rng.choices(list(self._kinds), list(self._kinds.values()))[0]()

    # --- processes ---------------------------------------------------------------------

    def crash(self) -> None:
        """A process dies between two of its steps, and is started again."""
        self._crash(self._rng.choice(list(self._world.hosts)), self._rng.uniform(0.05, 8.0))

    def crash_soon_again(self) -> None:
        """The same, and its next life is short."""
        host = self._rng.choice(list(self._world.hosts))
        self._crash(host, 0.1)
        self._later(self._rng.uniform(0.15, 1.5), lambda: self._crash(host, self._rng.uniform(0.05, 3.0)))

    def _crash(self, host: str, down_s: float) -> None:
        process = self._world.processes[host]
        if process.alive and process.fuse is None:
            process.fuse = self._rng.randint(0, 300)
            self._world.down_s[host] = down_s

    def pause(self) -> None:
        """A process stands still, perhaps for longer than its lease, and goes on as if nothing had been."""
        host = self._rng.choice(list(self._world.hosts))
        process = self._world.processes[host]
        if not process.alive or process.paused:
            return
        process.pause()
        lasts_s = self._rng.choice((self._rng.uniform(0.01, 1.0), self._rng.uniform(1.0, 15.0)))
        self._note("pause", process.name, f"{lasts_s:.1f} s")
        self._later(lasts_s, process.wake)

    def drain(self) -> None:
        """A coordinator or a participant is asked to stop, and is started again."""
        process = self._world.processes[
            self._rng.choice([*self._world.coordinators, *self._world.participants])
        ]
        if process.alive:
            self._note("drain", process.name)
            self._world.down_s[process.host] = self._rng.uniform(0.05, 2.0)
            self._world.drain(process)

    def clock_jump(self) -> None:
        """A machine's wall clock is wrong by an hour; it stays so until the next jump."""
        host = self._rng.choice(list(self._world.hosts))
        jump_s = self._rng.choice((-JUMP_S, JUMP_S, 0.0))
        self._note("clock jump", host, f"{jump_s:+.0f} s")
        self._world.wall_errors_s[host] = jump_s

    # --- the network ---------------------------------------------------------------------

    def cut(self) -> None:
        """One direction between two hosts is cut."""
        hosts = [*self._world.hosts, "postgres"]
        source, target = self._rng.sample(hosts, 2)
        cut = self._world.network.conditions.cut
        if (source, target) in cut:
            return
        cut[source, target] = None
        lasts_s = self._rng.uniform(0.2, 12.0)
        self._note("cut", f"{source} -> {target}", f"{lasts_s:.1f} s")
        self._later(lasts_s, lambda: cut.pop((source, target), None))

    def slow(self) -> None:
        """All traffic of one host is slow."""
        host = self._rng.choice([*self._world.hosts, "postgres"])
        slow = self._world.network.conditions.slow
        if host in slow:
            return
        slow[host] = self._rng.choice((20.0, 300.0, 2_000.0))
        lasts_s = self._rng.uniform(0.5, 10.0)
        self._note("slow", host, f"{slow[host]:.0f} times for {lasts_s:.1f} s")
        self._later(lasts_s, lambda: slow.pop(host, None))

    def lose(self) -> None:
        self._chance(self._world.network.conditions, "lost", (0.02, 0.2))

    def double(self) -> None:
        self._chance(self._world.network.conditions, "doubled", (0.05, 0.5))

    def delay_minutes(self) -> None:
        self._chance(self._world.network.conditions, "very_late", (0.02, 0.2))

    def break_streams(self) -> None:
        self._chance(self._world.network.conditions, "broken", (0.05, 0.5))

    def stall(self) -> None:
        """A participant reads nothing of its streams."""
        host = self._rng.choice(self._world.participants)
        stalled = self._world.network.conditions.stalled
        if host in stalled:
            return
        resumed = stalled[host] = asyncio.Event()
        lasts_s = self._rng.uniform(0.2, 12.0)
        self._note("stall", host, f"{lasts_s:.1f} s")

        def resume() -> None:
            stalled.pop(host, None)
            resumed.set()

        self._later(lasts_s, resume)

    # --- databases -----------------------------------------------------------------------

    def log_down(self) -> None:
        health = self._world.log.health
        if health.down:
            return
        health.down = True
        lasts_s = self._rng.choice((self._rng.uniform(0.05, 1.0), self._rng.uniform(1.0, 10.0)))
        self._note("log down", "postgres", f"{lasts_s:.1f} s")

        def up() -> None:
            health.down = False

        self._later(lasts_s, up)

    def log_unsure(self) -> None:
        """Make the outcome of some commits unknown for a while."""
        kind = self._rng.choice(("request_lost", "answer_lost", "answer_lost", "comes_late"))
        self._chance(self._world.log.health, kind, (0.05, 0.5))

    def cell_unavailable(self) -> None:
        """One cell of the log cannot be used for a while; the others can."""
        cell, troubles = self._rng.randrange(self._world.cells), self._world.log.health.troubles
        if cell in troubles:
            return
        troubles[cell] = self._rng.choice(list(CellTrouble))
        lasts_s = self._rng.choice((self._rng.uniform(0.05, 1.0), self._rng.uniform(1.0, 15.0)))
        self._note("cell unavailable", f"cell {cell}", f"{troubles[cell].name} for {lasts_s:.1f} s")
        self._later(lasts_s, lambda: troubles.pop(cell, None))

    def bad_handlers(self) -> None:
        self._chance(self._rng.choice(self._world.businesses), "fails", (0.05, 0.5))

    def bad_database(self) -> None:
        database = self._rng.choice(list(self._world.databases.values()))
        self._chance(database.health, self._rng.choice(("fails", "commits_and_fails")), (0.05, 0.5))

    # --- how long ------------------------------------------------------------------------

    def _chance(self, owner: object, name: str, chances: tuple[float, float]) -> None:
        """Sets one of the chances for a while."""
        if getattr(owner, name):
            return
        chance, lasts_s = self._rng.uniform(*chances), self._rng.uniform(0.3, 8.0)
        setattr(owner, name, chance)
        self._note(name, type(owner).__name__, f"{chance:.0%} for {lasts_s:.1f} s")
        self._later(lasts_s, lambda: setattr(owner, name, 0.0))

    def _later(self, delay_s: float, callback: Callable[[], object]) -> None:
        self._world.loop.call_later(delay_s, callback)

    def _note(self, kind: str, target: str, detail: str = "") -> None:
        self._world.observer.fault(kind, target, detail)

    def heal(self) -> None:
        """Everything works from now on; messages that are late already still come."""
        world = self._world
        conditions, health = world.network.conditions, world.log.health
        conditions.lost = conditions.doubled = conditions.very_late = 0.0
        conditions.broken = 0.0
        conditions.odd.clear()
        for resumed in conditions.stalled.values():
            resumed.set()
        conditions.stalled.clear()
        conditions.cut.clear()
        conditions.slow.clear()
        health.down = False
        health.troubles.clear()
        health.request_lost = health.answer_lost = health.comes_late = 0.0
        for business in world.businesses:
            business.fails = 0.0
        for database in world.databases.values():
            database.health.fails = database.health.commits_and_fails = 0.0
        for host, process in world.processes.items():
            process.fuse = None
            if process.paused:
                process.wake()
            world.wall_errors_s[host] = 0.0
        self._note("healed", "")
