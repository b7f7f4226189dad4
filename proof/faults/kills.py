"""Every failpoint kills, several times, under load; after each wave of kills all is judged.

A wave: every process that is threatened dies at its failpoint, and is started again at
once, armed with its next one, until it has died two or three times. So each wave kills
two coordinators, three participants and two initiators, at up to fourteen points.
"""

import asyncio
import sys
from asyncio.subprocess import STDOUT
from collections import Counter, deque
from collections.abc import Sequence
from itertools import chain

from participants.child_process import run
from participants.demo.plan import make_plan
from proof.faults.failpoints import VARIABLE, rules
from proof.faults.member import Member
from proof.faults.orders import renamed
from proof.faults.plan import Provocation, Rule, Side, deal, provocation
from proof.faults.testbed import Testbed, until
from proof.history.events import AnyEvent
from proof.history.recorder import read

WAVE_TIMEOUT_S = 40.0
# How often a process may die in a wave: more would leave no service in between.
_COORDINATOR_LIVES, _PARTICIPANT_LIVES = 3, 2
_PROVOKE_EVERY_S = 1.0
_AT_WORK_S = 1.0
# How many waves a failpoint may take to be reached.
_WAVES_MAX = 3
_INITIATORS = ("initiator-1", "initiator-2")
_INITIATOR_ORDERS = 60
_INITIATOR_TIMEOUT_S = 90.0


async def kill_everywhere(testbed: Testbed, names: list[str], *, times: int) -> Counter[str]:
    """Count the kills of each failpoint. One that cannot be reached is skipped after some waves."""
    system = testbed.system
    members = {
        Side.COORDINATOR: list(system.coordinators),
        Side.PARTICIPANT: list(system.participants),
        Side.INITIATOR: _INITIATORS,
    }
    hands = deal(names, members, times=times, chance=testbed.chance)
    initiators = [_Initiator(name, testbed, hands.pop(name)) for name in _INITIATORS]
    for member in system.members:
        member.hand = hands[member.name]
    wave = 0
    missed: Counter[str] = Counter()
    victims: list[Member | _Initiator] = [*system.members, *initiators]
    while any(victim.may_be_killed for victim in victims):
        wave += 1
        await _wave(testbed, initiators, f"wave-{wave}", missed)
        killed = sum(len(victim.killed_at) for victim in victims)
        testbed.say(
            f"wave {wave}: {killed} of {len(names) * times} kills, "
            f"{testbed.verifier.transactions} transactions"
        )
    return Counter(name for victim in victims for name in victim.killed_at)


async def _wave(
    testbed: Testbed, initiators: Sequence["_Initiator"], name: str, missed: Counter[str]
) -> None:
    """`missed`: how many waves have ended before a failpoint was reached."""
    targets = [member for member in testbed.system.members if member.may_be_killed]
    before = {member.name: len(member.killed_at) for member in targets}
    for member in targets:
        is_coordinator = member.name in testbed.system.coordinators
        member.arm(_COORDINATOR_LIVES if is_coordinator else _PARTICIPANT_LIVES)
    async with testbed.load(name):
        running = asyncio.gather(*(initiator.run_until_killed(name) for initiator in initiators))
        provoking = asyncio.create_task(_provoke(testbed, targets))
        try:
            await until(
                lambda: all(
                    len(member.killed_at) > before[member.name] or not member.may_be_killed
                    for member in targets
                ),
                WAVE_TIMEOUT_S,
            )
        finally:
            provoking.cancel()
            await asyncio.gather(provoking, return_exceptions=True)
        journal = list(chain.from_iterable(await running))
    for member in targets:
        if len(member.killed_at) == before[member.name] and member.armed is not None:
            missed[member.armed.name] += 1
            testbed.say(f"{name}: {member.name} has not come to {member.armed}")
            if missed[member.armed.name] >= _WAVES_MAX:  # it counts too few kills in the end
                member.armed = None
                member.kill()
    await asyncio.gather(*(member.comes_back() for member in testbed.system.members))
    await testbed.settle(name, journal)


async def _provoke(testbed: Testbed, targets: list[Member]) -> None:
    """Brings about what failpoints need that the load does not."""
    while True:
        await asyncio.sleep(_PROVOKE_EVERY_S)
        for member in targets:
            match provocation(member.armed.name) if member.armed is not None else Provocation.NOTHING:
                case Provocation.NOTHING:
                    pass
                case Provocation.SIGTERM:
                    await member.comes_back()
                    member.terminate()
                case Provocation.PARTICIPANT_DIES:
                    await member.comes_back()
                    await _kill_at_work(testbed.chance.choice(list(testbed.system.participants.values())))
                case Provocation.COORDINATOR_DIES:
                    await member.comes_back()
                    others = [m for m in testbed.system.coordinators.values() if m is not member]
                    await _kill_at_work(testbed.chance.choice(others))


async def _kill_at_work(member: Member) -> None:
    """SIGKILL in the midst of work: who has just started has nothing to leave behind."""
    await member.comes_back()
    await asyncio.sleep(_AT_WORK_S)
    member.kill()


class _Initiator:
    """An initiator that dies at its failpoint, and is then started again to ask for everything once more."""

    def __init__(self, name: str, testbed: Testbed, hand: deque[Rule]) -> None:
        self.name = name
        self.hand = hand
        self.killed_at: list[str] = []
        self._missed: Counter[str] = Counter()
        self._testbed = testbed
        self._journal = testbed.system.home / f"{name}.journal"
        self._read_to = 0

    @property
    def may_be_killed(self) -> bool:
        """Return whether failpoints are still to kill it."""
        return bool(self.hand)

    async def run_until_killed(self, name: str) -> list[AnyEvent]:
        """One failpoint. Answers what the initiator saw, in both its lives."""
        if not self.hand:
            return []
        rule = self.hand.popleft()
        victim = f"{name}-{self.name}"
        seed = self._testbed.chance.randrange(10**9)
        plan = renamed(make_plan(orders=_INITIATOR_ORDERS, seed=seed), victim)
        await self._testbed.warehouse.fill(plan, victim)
        status, words = await self._run(seed, victim, {VARIABLE: rules({rule.name: rule.hits})})
        if f"killed at failpoint {rule.name}" in words:
            self.killed_at.append(rule.name)
            status, words = await self._run(seed, victim, {})
        else:
            self._miss(victim, rule)
        if status != 0:
            self._testbed.verifier.violations.append(f"{victim} ended with {status}: {words}")
        history = await asyncio.to_thread(read, [self._journal])
        new, self._read_to = history[self._read_to :], len(history)
        return new

    def _miss(self, victim: str, rule: Rule) -> None:
        """Keep a failpoint that the orders did not reach for the next wave, like those of the others."""
        self._missed[rule.name] += 1
        if self._missed[rule.name] < _WAVES_MAX:
            self._testbed.say(f"{victim} has not come to {rule}")
            self.hand.append(rule)
        else:
            self._testbed.verifier.violations.append(f"{victim} never came to {rule}")

    async def _run(self, seed: int, name: str, environment: dict[str, str]) -> tuple[int, str]:
        try:
            status, output, _ = await run(
                *(sys.executable, "-m", "proof.faults.child", "proof.faults.initiator"),
                f"--coordinators={self._testbed.system.target}",
                f"--credentials={self._testbed.system.credentials.directory}",
                *(f"--seed={seed}", f"--name={name}"),
                *(f"--orders={_INITIATOR_ORDERS}", f"--journal={self._journal}"),
                f"--database={self._testbed.system.sqlalchemy_url('order')}",
                environment=environment,
                stderr=STDOUT,
                timeout_s=_INITIATOR_TIMEOUT_S,
            )
        except TimeoutError:
            return -1, "it does not end"
        return status, output[-2_000:]
