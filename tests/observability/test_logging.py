"""Log lines of a coordinator, and a full disk for them."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import structlog
from coordinator.observability.logging import configure_logging

configure_logging()
for _ in range(3):
    structlog.get_logger().warning("the disk is full", gid="a")
print("alive", flush=True)
"""


def speak(errors: Path) -> "subprocess.CompletedProcess[str]":
    with errors.open("a") as file:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=file, text=True, check=False
        )


def test_an_event_is_one_json_object_per_line(tmp_path: Path) -> None:
    speak(tmp_path / "errors")
    lines = (tmp_path / "errors").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["the disk is full"] * 3


def test_a_full_disk_costs_lines_and_not_the_process() -> None:
    assert speak(Path("/dev/full")).stdout == "alive\n"
