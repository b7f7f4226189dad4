"""The examples of docs/CHOOSING.md run as they are printed."""

import ast
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import tcc
from tcc import Participant
from tcc.client.outcome import BranchKind
from tcc.testing import FakeCoordinator
from tests.support.participant_databases import RECORD

PAGE = (Path(__file__).parents[2] / "docs" / "CHOOSING.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# ([\w.]+)\n(.*?)```", PAGE, re.DOTALL))


async def run(name: str, **names: object) -> FakeCoordinator:
    fake = FakeCoordinator()
    async with tcc.Client(fake) as client:
        names |= {"tcc": tcc, "client": client, "gid": "g", "timedelta": timedelta}
        code = compile(BLOCKS[name], name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        await eval(code, names)
    return fake


def test_every_block_is_run():
    assert set(BLOCKS) == {"mixed.py", "reminder.py", "local_first.py"}


async def test_a_transaction_of_three_kinds():
    fake = await run("mixed.py")

    kinds = [branch.kind for branch in fake.transaction("g").branches]
    assert kinds == [BranchKind.TCC, BranchKind.SAGA, BranchKind.MESSAGE]
    assert fake.transaction("g").state.name == "CONFIRMED"


async def test_a_message_that_waits():
    ordered_at = datetime(2100, 1, 1, tzinfo=UTC)
    fake = await run("reminder.py", order_id="17", ordered_at=ordered_at)

    [reminder] = fake.transaction("unpaid-17").branches
    assert reminder.kind is BranchKind.MESSAGE
    assert reminder.not_before == ordered_at + timedelta(minutes=30)


async def test_local_first(sqlite: pytest.FixtureRequest):
    engine, ledger = sqlite
    orders = Participant("order", database=engine)
    await orders.create_schema()
    insert_order = RECORD.bindparams(gid="g", branch_id="order", operation="local")

    fake = await run("local_first.py", orders=orders, insert_order=insert_order)

    assert ledger.effects("g") == ["local"]
    assert [(call.operation.name, call.participant) for call in fake.calls] == [
        ("TRY", "inventory"),
        ("CONFIRM", "inventory"),
        ("CONFIRM", "mail"),
    ]
