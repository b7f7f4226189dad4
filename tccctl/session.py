"""One run of `tccctl`: its settings, its channel to a coordinator, its output."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import typer
from google.protobuf.message import Message

from tcc.admin.v1 import admin_pb2, admin_pb2_grpc
from tcc.errors import error_from_rpc
from tccctl.channel import open_channel
from tccctl.exit_codes import ExitCode, meaning
from tccctl.failures import OUTCOME_UNKNOWN, Failure, UsageFailure, failure_of
from tccctl.formatting import harmless, harmless_lines
from tccctl.free_text import hide_free_text
from tccctl.output import Output
from tccctl.payloads import PayloadReader, payload_reader
from tccctl.records import record
from tccctl.redaction import REDACTED
from tccctl.settings import Options, Settings, settings_of
from tccctl.termination import Calls, Terminated

# A stream may take long. Pings detect a dead coordinator: see `open_channel`.
STREAM_TIMEOUT_S = 3_600.0
# The message of such a refusal is a participant's.
_QUOTES_PARTICIPANT = {"PARTICIPANT_UNREACHABLE"}
# What commands on participants and coordinators need, as a coordinator names it.
OPERATE_FOR_ALL = "the role operate for all tenants"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The context of every command."""

    settings: Settings
    output: Output
    payloads: PayloadReader
    stub: Any
    calls: Calls

    def ask(self, method: str, request: Message, *, needs: str = "") -> Any:
        """Send a request that changes nothing. Raises Failure.

        `needs`: what the command needs, if it needs more than this request.
        """
        return self._call(method, request, changes_state=False, needs=needs)

    def do(self, method: str, request: Message) -> Any:
        """Send a request for a change. Raises Failure."""
        return self._call(method, request, changes_state=True)

    def stream(self, method: str, request: Message, *, changes_state: bool = True) -> Iterator[Any]:
        """Open a stream: a change's progress if `changes_state`. Raises Failure while it is read."""
        with self._failures(changes_state=changes_state):
            call = partial(getattr(self.stub, method), request, timeout=STREAM_TIMEOUT_S)
            stream = self.calls.run(call)
            while (reply := self.calls.run(lambda: next(stream, None))) is not None:
                yield self._redacted(reply)

    def operator_context(self, reason: str | None, *, version: int = 0) -> admin_pb2.OperatorContext:
        """Return who acts and why. Prompt on a terminal for what is missing. Raises UsageFailure."""
        if not self.settings.operator and self.settings.token_file is None:
            raise UsageFailure(
                "no operator is given", advice="give your name with --operator, or set TCCCTL_OPERATOR"
            )
        return admin_pb2.OperatorContext(
            operator=self.settings.operator, reason=_reason(reason), version=version
        )

    def record(self, message: Message) -> dict[str, Any]:
        """Return the message as a record for JSON and YAML."""
        return record(message, self.payloads)

    def _call(self, method: str, request: Message, *, changes_state: bool, needs: str = "") -> Any:
        with self._failures(changes_state=changes_state, needs=needs):
            call = partial(getattr(self.stub, method), request, timeout=self.settings.timeout_s)
            return self._redacted(self.calls.run(call))

    def _redacted(self, reply: Any) -> Any:
        if self.settings.redact:
            hide_free_text(reply)
        return reply

    @contextmanager
    def _failures(self, *, changes_state: bool, needs: str = "") -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            refusal = error_from_rpc(error)
            if self.settings.redact and refusal.reason in _QUOTES_PARTICIPANT:
                refusal.message = REDACTED
            if needs and refusal.reason == "NOT_ALLOWED":
                refusal.message = f"{needs} is required"
            raise failure_of(refusal, address=self.settings.address, changes_state=changes_state) from error
        except KeyboardInterrupt:
            if not changes_state:
                raise
            raise Failure("interrupted", advice=OUTCOME_UNKNOWN, code=ExitCode.INTERRUPTED) from None
        except Terminated:
            if not changes_state:
                raise
            raise Failure(
                meaning(ExitCode.TERMINATED), advice=OUTCOME_UNKNOWN, code=ExitCode.TERMINATED
            ) from None


@contextmanager
def session(
    options: Options, output: Output, environment: Mapping[str, str] = os.environ
) -> Iterator[Session]:
    """Open a session with a channel, which is closed at the end. Nothing is sent before the first call."""
    settings = settings_of(options, environment)
    payloads = payload_reader(settings.descriptor_sets, settings.messages, settings.redact)
    with closing(Calls()) as calls, open_channel(settings) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        yield Session(settings=settings, output=output, payloads=payloads, stub=stub, calls=calls)


@contextmanager
def failures_as_exits() -> Iterator[None]:
    """Exit with the status of a failure, and print its message to standard error."""
    try:
        yield
    except Failure as failure:
        typer.echo(f"tccctl: {harmless_lines(failure.message)}", err=True)
        if failure.advice:
            typer.echo(f"  {harmless_lines(failure.advice)}", err=True)
        raise typer.Exit(failure.code) from failure
    except BrokenPipeError:
        # The reader closed the pipe. The interpreter must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.OK) from None
    except UnicodeEncodeError as error:
        typer.echo(f"tccctl: {harmless(error.object)} is not valid UTF-8", err=True)
        raise typer.Exit(ExitCode.USAGE) from None
    except OSError as error:
        typer.echo(f"tccctl: the answer could not be written: {error.strerror}", err=True)
        raise typer.Exit(ExitCode.REFUSED) from error
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("\ntccctl: interrupted", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def confirmed(question: str, *, yes: bool, advice: str) -> None:
    """Return if the operator confirms. Raises Failure: no terminal, or the answer is no."""
    if yes:
        return
    if not _can_ask():
        raise UsageFailure("this needs a confirmation, and there is no terminal to ask on", advice=advice)
    if not typer.confirm(harmless(question), err=True):
        raise Failure("nothing was done")


def _reason(given: str | None) -> str:
    reason = (given or "").strip()
    if not reason and _can_ask():
        reason = str(typer.prompt("reason", err=True)).strip()
    if not reason:
        raise UsageFailure(
            "no reason is given", advice="give it with --reason: it is recorded in the audit chain"
        )
    return reason


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
