"""The results of `tccd doctor`'s checks, and what several of them ask."""

import socket
import ssl
from enum import Enum

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from msgspec import Struct

from tcc._internal.token import TokenChannel

TIMEOUT_S = 5.0


class CheckStatus(Enum):
    """OK; WARNING: it works, but deserves a check; PROBLEM: it does not work, or is not safe."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class CheckResult(Struct, frozen=True, kw_only=True):
    """The result of one check."""

    check: str
    status: CheckStatus
    message: str
    # What to do about it; empty if there is nothing to do.
    remedy: str = ""


def ok(check: str, message: str) -> CheckResult:
    return CheckResult(check=check, status=CheckStatus.OK, message=message)


def warning(check: str, message: str, remedy: str) -> CheckResult:
    return CheckResult(check=check, status=CheckStatus.WARNING, message=message, remedy=remedy)


def problem(check: str, message: str, remedy: str) -> CheckResult:
    return CheckResult(check=check, status=CheckStatus.PROBLEM, message=message, remedy=remedy)


def served_certificate(address: str) -> bytes | None:
    """Return the certificate that a server of HTTP/2 shows. Raise OSError: there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S) as connection,
        context.wrap_socket(connection) as secured,
    ):
        return secured.getpeercert(binary_form=True)


def health(channel: grpc.Channel | TokenChannel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    answer: int = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S).status
    return answer
