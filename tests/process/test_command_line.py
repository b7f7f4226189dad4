"""`tccd` as a part of another program, such as a test."""

import signal

from typer.testing import CliRunner

from coordinator.process.cli import app


def test_a_command_in_another_program_leaves_its_signal_handlers() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    assert CliRunner().invoke(app, ["config", "show"]).exit_code == 0
    assert [signal.getsignal(number) for number in numbers] == before
