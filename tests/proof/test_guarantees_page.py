"""docs/GUARANTEES.md names tests, commands and properties: all of them exist. ARCHITECTURE.md names tests."""

import re
from pathlib import Path

import pytest

from proof.history.checker import Property

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "GUARANTEES.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize("page", [PAGE, ARCHITECTURE], ids=["guarantees", "architecture"])
def test_every_test_that_it_names_exists(page: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 20
    for path, test in named:
        source = (ROOT / path).read_text()
        assert not test or re.search(rf"^(?:async )?def {test}\(", source, re.MULTILINE), (path, test)


def test_every_guarantee_has_its_section_and_names_what_fails() -> None:
    sections = re.split(r"^### ", PAGE.split("## What is not promised")[0], flags=re.MULTILINE)[1:]
    assert [section.split(".")[0] for section in sections] == [str(number) for number in range(1, 16)]
    assert all("Fails when broken: `tests/" in section for section in sections)


def test_every_property_of_the_checker_is_named() -> None:
    assert [each.name for each in Property if each.name not in PAGE] == []


def test_every_command_that_it_names_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)", PAGE)) <= targets
