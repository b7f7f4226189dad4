"""A scripted AdminService over real gRPC on loopback, and tccctl as its client."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from typer.testing import CliRunner, Result

from tcc.admin.v1 import admin_pb2_grpc
from tccctl.cli import app

NO_SETTINGS = {
    "TCCCTL_ADDRESS": "",
    "TCCCTL_OPERATOR": "",
    "TCCCTL_REDACT": "",
    "TCCCTL_CONFIG": "",
    "TCCCTL_CA_FILE": "",
    "TCCCTL_CERTIFICATE_FILE": "",
    "TCCCTL_KEY_FILE": "",
    "TCCCTL_TOKEN_FILE": "",
    "HOME": "/nonexistent",
    "XDG_CONFIG_HOME": "",
    "LOGNAME": "ana",
}


def refusal(code: int, reason: str, message: str, **metadata: str) -> Status:
    """A refusal as the coordinator sends it."""
    packed = AnyMessage()
    packed.Pack(ErrorInfo(reason=reason, domain="tcc", metadata=metadata))
    return Status(code=code, message=message, details=[packed])


class ScriptedAdmin(admin_pb2_grpc.AdminServiceServicer):
    """Answer each method with the next of its `answers`. A list among them is a stream."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {
            name: list(given) if isinstance(given, tuple) else [given] for name, given in answers.items()
        }
        self.requests: list[Any] = []
        self.address = ""

    def tccctl(self, *arguments: str, **environment: str) -> Result:
        """Run the command in this process, in a pipe."""
        runner = CliRunner(env=NO_SETTINGS | {"TCCCTL_ADDRESS": self.address} | environment)
        return runner.invoke(app, arguments)

    def _next(self, name: str, request: Any, context: Any) -> Any:
        self.requests.append(request)
        answer = self.answers[name].pop(0)
        if isinstance(answer, Status):
            context.abort_with_status(rpc_status.to_status(answer))
        return answer


def _unary(name: str) -> Any:
    def answer(self: ScriptedAdmin, request: Any, context: Any) -> Any:
        return self._next(name, request, context)

    return answer


def _streaming(name: str) -> Any:
    def answer(self: ScriptedAdmin, request: Any, context: Any) -> Any:
        for item in self._next(name, request, context):
            if isinstance(item, Status):
                context.abort_with_status(rpc_status.to_status(item))
            yield item

    return answer


for _name in vars(admin_pb2_grpc.AdminServiceServicer):
    if not _name.startswith("_"):
        _kind = _streaming if _name in {"RunBulkAction", "Reconcile"} else _unary
        setattr(ScriptedAdmin, _name, _kind(_name))


@contextlib.contextmanager
def scripted(**answers: Any) -> Iterator[ScriptedAdmin]:
    """Serve for the duration of the block. A tuple of answers is given one after the other."""
    admin = ScriptedAdmin(**answers)
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
    admin.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield admin
    finally:
        server.stop(None).wait()
