"""The systemd unit is valid, and gives the coordinator no more than it needs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "deploy" / "tccd.service"
EXPOSURE_MAX = 2.0

pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


def test_the_unit_is_exposed_little() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", UNIT]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"Overall exposure level for tccd\.service: ([\d.]+)", shown)
    assert found
    assert float(found[1]) <= EXPOSURE_MAX


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """With a command that exists here: the one in the unit exists where it is installed."""
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    verified = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
