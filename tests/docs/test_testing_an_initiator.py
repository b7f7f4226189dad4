"""The tests that docs/TESTING_AN_INITIATOR.md shows pass as they are printed."""

import re
from pathlib import Path
from types import ModuleType

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "TESTING_AN_INITIATOR.md").read_text()
[TESTS] = re.findall(r"```python\n# test_buying.py\n(.*?)```", PAGE, re.DOTALL)

example = ModuleType("test_buying")
exec(compile(TESTS, "test_buying.py", "exec"), vars(example))


@pytest.mark.parametrize("name", [name for name in vars(example) if name.startswith("test_")])
async def test_example_passes(name: str) -> None:
    fake = example.fake.__wrapped__ if hasattr(example.fake, "__wrapped__") else example.fake
    await vars(example)[name](fake())
