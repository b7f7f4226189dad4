"""Connections are limited to the files that a worker may open."""

import resource
import subprocess
import sys

import pytest

from coordinator.api.server import ServerLimits
from coordinator.process import operating_system, worker


@pytest.mark.parametrize(
    ("files", "configured", "most"),
    [
        (1_024, 8_192, 1_024 - 256 - worker._FILES_RESERVED),
        (1_024, 100, 100),
        (1_048_576, 8_192, 8_192),
        (100, 8_192, worker._CONNECTIONS_MIN),
    ],
)
def test_connections_leave_files_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, files: int, configured: int, most: int
) -> None:
    monkeypatch.setattr(worker, "raise_open_files_limit", lambda: files)
    limits = worker.within_open_files(ServerLimits(connections_max=configured), 256)
    assert limits.connections_max == most


@pytest.mark.parametrize(
    ("soft", "hard", "raised"), [(64, 512, 512), (512, 512, 512)], ids=["below the hard limit", "at it"]
)
def test_the_soft_limit_of_open_files_is_raised(soft: int, hard: int, raised: int) -> None:
    """In a process of its own: a hard limit cannot be raised again."""
    program = f"from {operating_system.__name__} import raise_open_files_limit as it; print(it(), it())"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert ended.stdout.split() == [str(raised).encode()] * 2
