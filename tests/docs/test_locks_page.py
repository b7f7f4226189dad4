"""The examples of docs/LOCKS.md run as they are printed."""

import json
import re
from pathlib import Path
from types import ModuleType

from sqlalchemy.ext.asyncio import AsyncEngine

import tcc
from participants.locks.fencing import metadata
from participants.serving import create_schema
from tcc.testing import FakeCoordinator
from tests.barrier.test_barrier import REJECTED, SUCCEEDED, make_call

PAGE = (Path(__file__).parents[2] / "docs" / "LOCKS.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# ([\w.]+)\n(.*?)```", PAGE, re.DOTALL))


def example(name: str) -> ModuleType:
    module = ModuleType(name.removesuffix(".py"))
    exec(compile(BLOCKS[name], name, "exec"), vars(module))
    return module


async def test_the_initiator_hands_the_token_on() -> None:
    fake = FakeCoordinator(participants=["locks", "carts"])
    fake.on("locks", "acquire").returns({"tokens": {"cart-1": 7}})
    async with tcc.Client(fake) as client:
        await example("purchase.py").purchase(client, "cart-1")
    tries = [call for call in fake.calls if call.action == "change_cart" and call.operation.name == "TRY"]
    assert [json.loads(call.payload) for call in tries] == [{"cart": "cart-1", "token": 7}]


async def test_the_resource_refuses_an_older_token(sqlite, call_participant) -> None:
    engine: AsyncEngine = sqlite[0]
    await create_schema(engine, metadata)
    carts = tcc.Participant("carts", database=engine)
    carts.action("change_cart")(example("carts.py").ChangeCart)
    caller = await call_participant(carts)

    async def change(gid: str, token: int) -> int:
        payload = b'{"cart": "cart-1", "token": %d}' % token
        return (await caller.try_(make_call(gid=gid, action="change_cart", payload=payload))).code

    assert await change("newer", 8) == SUCCEEDED
    assert await change("older", 7) == REJECTED
