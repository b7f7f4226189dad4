"""One version: that of the project's metadata."""

import tomllib
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

import tcc
from coordinator.process.cli import app as tccd
from tccctl.cli import app as tccctl

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
VERSION = tomllib.loads(PYPROJECT.read_text())["project"]["version"]


def test_the_sdk_states_the_version_of_the_metadata() -> None:
    assert tcc.__version__ == VERSION


@pytest.mark.parametrize(("name", "app"), [("tccd", tccd), ("tccctl", tccctl)])
def test_a_command_prints_its_name_and_version(name: str, app: Typer) -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{name} {VERSION}\n", "")
