"""The example of docs/FLASH_SALE.md runs as it is printed, and its tables name what exists."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tcc
from participants.events.requests import Publish
from participants.shipping import ORDER_CONFIRMED, TOPIC
from participants.shipping.handling import ConfirmedOrder
from tcc.testing import FakeCoordinator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "FLASH_SALE.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# ([\w.]+)\n(.*?)```", PAGE, re.DOTALL))
OPTIONS = re.compile(r"`(--[a-z-]+)")


async def test_the_example_publishes_what_shipping_consumes() -> None:
    fake = FakeCoordinator(participants=["inventory", "events"])
    module = ModuleType("announced")
    block = "\n".join(f"    {line}" for line in BLOCKS["announced.py"].splitlines())
    exec(f"async def announce(client, gid, tcc):\n{block}", vars(module))
    async with tcc.Client(fake) as client:
        await module.announce(client, "order-7", tcc)
    [call] = [call for call in fake.calls if call.action == "publish"]
    request = Publish.model_validate_json(call.payload)
    assert (request.topic, request.type) == (TOPIC, ORDER_CONFIRMED)
    assert ConfirmedOrder.model_validate(request.data).order_id == "order-7"
    assert json.loads(call.payload)["subject"] == "order-7"


@pytest.mark.slow
def test_every_option_on_the_page_exists() -> None:
    modules = ["events", "shipping", "audit", "inventory", "demo"]
    helps = [
        subprocess.run(
            [sys.executable, "-m", f"participants.{name}", "--help"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
        for name in modules
    ]
    assert [
        option for option in set(OPTIONS.findall(PAGE)) if not any(option in text for text in helps)
    ] == []
