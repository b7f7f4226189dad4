"""An honest tenant beside a flooding one, against a real `tccd` with `[auth]` and no limits of tenants.

`pytest -s -m slow tests/soak/test_tenants.py` prints the figures; with `TCC_TEST_CALLS_PER_S=300`
those with such a limit for the flooding tenant.

As with hostile clients, there are two coordinators, one tenant floods one of them all the time, and
the honest tenant uses them in turn. Its fair share is half of what the flooded one does, or all that
it asks for, if that is less.
"""

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

import tcc
from coordinator.security.tokens import new_token, token_hash
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tests.soak.test_hostile_clients import Honest, Stock, Used, measured, spread, tccd
from tests.support.databases import Databases
from tests.support.identities import SERVER_NAME, Tls
from tests.support.log_schema import LogSchema
from tests.support.processes import python
from tests.support.scripted_participant import serving

PHASE_S = 4.0
# What the flooding tenant began before the honest one came has yet to be done.
SETTLED_S = 3.0
PAIRS = 4
# Of the flooding tenant, which asks for much more.
CALLS_PER_S = float(os.environ.get("TCC_TEST_CALLS_PER_S", "1000000"))
# Of its fair share.
SHARE_KEPT = 0.8


class Pair(NamedTuple):
    """The honest tenant alone at one coordinator, and then beside the flood at the other."""

    alone: Used
    beside: Used
    # Beside it, in transactions/s.
    flood_rate: float

    @property
    def fair(self) -> float:
        return min(self.alone.rate, (self.beside.rate + self.flood_rate) / 2)

    @property
    def kept(self) -> float:
        return self.beside.rate / self.fair


class CountingStock(Stock):
    """Counts the Confirms of each tenant."""

    def __init__(self) -> None:
        super().__init__()
        self.confirmed: Counter[str] = Counter()

    async def _answer(self, call: participant_pb2.BranchCall, index: int = 0) -> common.CallResult:
        if call.operation == common.OPERATION_CONFIRM:
            self.confirmed[call.gid.partition("-")[0]] += 1
        return await super()._answer(call, index)


def tenants(tls: Tls, tokens: dict[str, str], calls_per_s: float) -> str:
    """Return their tables in the configuration; the last one has a limit of its calls."""
    files = "\n".join(f"{key} = {json.dumps(path)}" for key, path in tls.settings(certificates=False).items())
    tables = [f"[listen.tls]\n{files}", f"[admin.tls]\n{files}"]
    for name, token in tokens.items():
        tables += [
            f'[auth.tokens.{name}]\nsha256 = "{token_hash(token)}"\nexpires_at = 2100-01-01T00:00:00Z',
            f'[clients.{name}]\nidentities = ["token:{name}"]\ncalls = {{ "*" = ["*"] }}',
        ]
    return "\n".join([*tables, f"calls_per_s = {calls_per_s}"])


@pytest.mark.slow
async def test_an_honest_tenant_keeps_its_share_beside_a_flooding_one(
    tmp_path: Path, log_url: str, databases: Databases, log_schema: LogSchema
) -> None:
    tls, tokens = Tls(tmp_path), {name: new_token(name) for name in ("honest", "flood")}
    shown = tcc.Tls(ca=tls.ca_file, server_name=SERVER_NAME)
    stock, more = CountingStock(), tenants(tls, tokens, CALLS_PER_S)
    pairs: list[Pair] = []
    with databases.one() as other_url:
        log_schema.make(other_url)
        async with (
            serving(stock) as target,
            tccd(tmp_path / "tcc.toml", log_url, target, more=more) as it,
            tccd(tmp_path / "other.toml", other_url, target, more=more) as other,
        ):
            honest, elsewhere = (
                Honest(tccd.address, prefix="honest-", tls=shown, token=tokens["honest"])
                for tccd in (it, other)
            )
            for client in (elsewhere, honest):
                await client.run(PHASE_S)
            flooding = ("-m", "tests.soak.flooding", it.address, tls.ca_file, tokens["flood"])
            async with python(*flooding, stderr=None) as flood:
                assert flood.stdout is not None
                assert await flood.stdout.readline() == b"flooding\n"
                await asyncio.sleep(PHASE_S)
                for _ in range(PAIRS):
                    alone = await measured(other, PHASE_S, elsewhere)
                    await honest.run(SETTLED_S)
                    before = stock.confirmed["flood"]
                    beside = await measured(it, PHASE_S, honest)
                    pairs.append(Pair(alone, beside, (stock.confirmed["flood"] - before) / beside.wall_s))
            for client in (honest, elsewhere):
                await client.close()
    print(
        f"\n{len(pairs)} pairs of {PHASE_S:g} s; load of the machine {os.getloadavg()[0]:.1f}\n"
        f"honest transactions/s alone: {spread(pair.alone.rate for pair in pairs)}\n"
        f"honest transactions/s beside the flood: {spread(pair.beside.rate for pair in pairs)}\n"
        f"the flood's transactions/s: {spread(pair.flood_rate for pair in pairs)}\n"
        f"fair share, transactions/s: {spread(pair.fair for pair in pairs)}\n"
        f"kept of the fair share: {spread(pair.kept for pair in pairs)}"
    )
    assert median(pair.kept for pair in pairs) >= SHARE_KEPT
