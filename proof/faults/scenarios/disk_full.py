"""The disk of PostgreSQL is full for a while.

The scenario needs a small disk that may be filled: a tmpfs of its own in a mount
namespace, made by `unshare`. Where that is not permitted it is skipped, and says why.
"""

import argparse
import asyncio
import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from coordinator.embedded_postgres.server import EmbeddedPostgresError
from participants.child_process import run
from proof.faults.system import DISK
from proof.faults.testbed import Testbed

_DISK_BYTES = 400 * 2**20
_FULL_S = 6.0
_FILLS = 2
_CALM_S = 1.5
_BLOCK = b"\0" * 2**16
_TIMEOUT_S = 180.0


async def beside(say: Callable[[str], None]) -> dict[str, Any]:
    """The scenario in a process with a disk of its own; its figures, and under `wrong` what was."""
    reason = await asyncio.to_thread(why_not)
    if reason:
        say(f"scenario disk-full skipped: {reason}")
        return {"skipped": reason}
    say("scenario disk-full")
    try:
        status, output, _ = await run(
            *("unshare", "--mount", sys.executable, "-m", "proof.faults"),
            *("--points=none", "--scenarios=disk-full", "--inside-tmpfs"),
            stderr=None,
            timeout_s=_TIMEOUT_S,
        )
    except TimeoutError:
        return {"wrong": ["disk-full: it does not end"]}
    if status not in (0, 1) or not output:
        return {"wrong": [f"disk-full: ended with {status}"]}
    figures = json.loads(output.splitlines()[-1])
    wrong = [f"disk-full: {figures['violations']} violations; see above"] if figures["violations"] else []
    return {**figures["scenarios"]["disk-full"], "wrong": wrong}


def mount(directory: Path, size_bytes: int = _DISK_BYTES) -> None:
    """Mount a small disk at a directory. Raises CalledProcessError if that is not permitted."""
    directory.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0755", "tmpfs", str(directory)],
        check=True,
        capture_output=True,
    )


def unmount(directory: Path) -> None:
    """Unmount the disk; its content is lost."""
    subprocess.run(["umount", str(directory)], check=True, capture_output=True)


def fill(ballast: Path) -> None:
    """Fill the disk."""
    with ballast.open("ab", buffering=0) as file:
        while True:
            try:
                file.write(_BLOCK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return


def why_not() -> str:
    """Return why no disk can be mounted; empty if one can."""
    if os.geteuid() != 0:
        return "only root may mount a disk for PostgreSQL, which runs as a user of its own"
    probe = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    try:
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no unshare"
    return done.stderr.strip() if done.returncode else ""


async def fill_the_disk(testbed: Testbed, _options: argparse.Namespace) -> dict[str, Any]:
    """Fills it, leaves it full, makes room. An operator starts PostgreSQL again where it has ended."""
    postgres = testbed.system.postgres
    ballast = testbed.system.home / DISK / "ballast"
    restarts = 0
    async with testbed.load("full") as load:
        for _ in range(_FILLS):
            await asyncio.sleep(_CALM_S)
            testbed.verifier.note("disk full", "postgres")
            deadline = asyncio.get_running_loop().time() + _FULL_S
            while asyncio.get_running_loop().time() < deadline:
                await asyncio.to_thread(fill, ballast)
                await asyncio.sleep(0.1)
            ballast.unlink()
            testbed.verifier.note("disk has room", "postgres")
            if not await asyncio.to_thread(_answers, testbed):
                restarts += 1
                with contextlib.suppress(EmbeddedPostgresError):
                    await asyncio.to_thread(postgres.stop, "immediate")
                await asyncio.to_thread(postgres.start)
        await asyncio.sleep(_CALM_S)
    return {"fills": _FILLS, "postgres_restarts": restarts, "orders": load.placed}


def _answers(testbed: Testbed) -> bool:
    try:
        testbed.system.observers.open_transactions()
    except psycopg.OperationalError:
        return False
    return True
