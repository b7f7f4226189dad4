"""What is between processes breaks: connections to the log during COMMIT, and any way between two of them."""

import argparse
import asyncio
from contextlib import AsyncExitStack
from typing import Any

from proof.faults.system import COORDINATORS, System
from proof.faults.testbed import Testbed, until
from proof.proxy import Fault, NetworkConditions, Proxy, proxied, proxied_address

_CUTS = 40
_CUT_FAULTS = (Fault.LOSE_REPLY, Fault.LOSE_REPLY, Fault.LOSE_REQUEST)
_STRUCK_TIMEOUT_S = 5.0
_DELAY_S = 0.3
# Shorter than the lease and longer than it; longer than a call may take.
_SPELL_S = 2.5
_CALM_S = 0.5


async def cut_commits(testbed: Testbed, _options: argparse.Namespace) -> dict[str, Any]:
    """Each coordinator's connections to the log are cut while a statement commits, before or after it did.

    Every statement of the log is a transaction of its own, so that the reply that is
    lost is that of the commit. A participant's is cut likewise, anywhere in its transaction.
    """
    system = testbed.system
    struck = 0
    async with AsyncExitStack() as stack:
        proxies: list[Proxy] = []
        for member in system.members:
            database = "coordinator" if member.name in COORDINATORS else member.name
            proxy = await stack.enter_async_context(proxied(system.postgres.url(database), system.socket_dir))
            proxies.append(proxy)
            system.ways[member.name, "postgres"] = proxy.where
        await system.restart(*system.members)
        async with testbed.load("cut"):
            for number in range(_CUTS):
                proxy = proxies[number % len(proxies)]
                proxy.arm(testbed.chance.choice(_CUT_FAULTS))
                struck += await until(proxy.struck.is_set, _STRUCK_TIMEOUT_S)
        await testbed.settle("commits-cut")
        system.ways.clear()
        await system.restart(*system.members)
    if struck < _CUTS // 2:
        testbed.verifier.violations.append(f"commits-cut: only {struck} of {_CUTS} faults struck")
    return {"cuts": struck}


async def degrade_network(testbed: Testbed, _options: argparse.Namespace) -> dict[str, Any]:
    """Every way gets every kind of bad weather in turn, a direction at a time."""
    system = testbed.system
    spells = 0
    async with AsyncExitStack() as stack:
        proxies = await _proxies(system, stack)
        await system.restart(*system.coordinators.values())
        async with testbed.load("network") as load:
            ways = list(proxies.items())
            testbed.chance.shuffle(ways)
            for number, ((one, other), proxy) in enumerate(ways):
                spoil = _SPELLS[number % len(_SPELLS)]
                conditions = proxy.there if testbed.chance.random() < 0.5 else proxy.back
                testbed.verifier.note(spoil.__name__.strip("_"), f"{one} - {other}")
                spoil(proxy, conditions)
                await asyncio.sleep(_SPELL_S)
                proxy.heal()
                spells += 1
                await asyncio.sleep(_CALM_S)
        await testbed.settle("network")
        system.ways.clear()
        await system.restart(*system.coordinators.values())
    return {"spells": spells, "ways": len(proxies), "orders": load.placed}


async def _proxies(system: System, stack: AsyncExitStack) -> dict[tuple[str, str], Proxy]:
    """One before each peer of each coordinator, and before each coordinator for initiators."""
    proxies: dict[tuple[str, str], Proxy] = {}
    for name, coordinator in system.coordinators.items():
        for participant, member in system.participants.items():
            proxies[name, participant] = await stack.enter_async_context(proxied_address(member.address))
        proxies[name, "postgres"] = await stack.enter_async_context(
            proxied(system.postgres.url("coordinator"), system.socket_dir)
        )
        proxies["initiator", name] = await stack.enter_async_context(proxied_address(coordinator.address))
    for way, proxy in proxies.items():
        system.ways[way] = proxy.where
    return proxies


def _delay(_proxy: Proxy, conditions: NetworkConditions) -> None:
    conditions.delay_s = _DELAY_S


def _hold(_proxy: Proxy, conditions: NetworkConditions) -> None:
    conditions.holds = True


def _swallow(_proxy: Proxy, conditions: NetworkConditions) -> None:
    conditions.swallows = True


def _cut(proxy: Proxy, _conditions: NetworkConditions) -> None:
    proxy.cut()


def _refuse(proxy: Proxy, _conditions: NetworkConditions) -> None:
    proxy.refuses = True
    proxy.cut()


_SPELLS = (_delay, _hold, _swallow, _cut, _refuse)
