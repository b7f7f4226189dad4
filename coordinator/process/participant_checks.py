"""What `tccd doctor` finds out about a participant: by a coordinator's calls, and by asking it."""

import ssl
import time
from collections.abc import Collection, Iterator
from queue import Empty, SimpleQueue
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from msgspec import Struct

from coordinator.config.settings import ParticipantSettings
from coordinator.participant_client.channel import open_sync_channel, with_token
from coordinator.process.checks import (
    TIMEOUT_S,
    CheckResult,
    health,
    ok,
    problem,
    served_certificate,
    warning,
)
from tcc._internal.token import TokenChannel
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc

# A Try that arrives after the expiry by the participant's clock is refused. MySQL's clock counts whole
# seconds, so that it may seem to be one second behind.
CLOCK_AHEAD_MAX_S = 2.0
# The fastest of several responses bounds the error of the difference best.
_CLOCK_READINGS = 5

_ASK_ITS_LOG = "check the participant's own log"
_STATUS = health_pb2.HealthCheckResponse.ServingStatus
_REFUSALS = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}

# By whether streams and batches are.
_OFFERED = {
    (True, True): "streams and batches are offered",
    (True, False): "streams are offered, batches are not",
    (False, True): "batches are offered, streams are not",
    (False, False): "neither streams nor batches are offered",
}

Channel = grpc.Channel | TokenChannel


class ParticipantInfo(Struct, frozen=True, kw_only=True):
    """What a participant says of itself, and how far its clock is ahead of this machine's."""

    name: str
    sdk: str
    clock_ahead_s: float
    clock_error_s: float


def check_participant(
    name: str, participant: ParticipantSettings, others: Collection[str]
) -> Iterator[CheckResult]:
    """Check one participant. `others`: the names of the other participants, for which it may be mistaken."""
    check, address = f"participant {name}", participant.address()
    with open_sync_channel(address) as channel:
        if not _connects(channel):
            yield problem(check, f"{participant.target} cannot be reached", _why_unreachable(participant))
            return
        try:
            yield from _check_connected(name, participant, others, with_token(channel, address))
        except grpc.RpcError as error:
            yield _refused(check, participant, error)
        except OSError as error:
            yield problem(check, f"{error.filename}: {error.strerror}", "correct token_file in its table")


def _check_connected(
    name: str, participant: ParticipantSettings, others: Collection[str], channel: Channel
) -> Iterator[CheckResult]:
    """Raise RpcError: a call failed that any participant answers."""
    check, target = f"participant {name}", participant.target
    has_health = True
    try:
        status = health(channel, "")
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        has_health = False
    else:
        if status != _STATUS.SERVING:
            yield problem(check, f"{target} reports {_STATUS.Name(status)}", _ASK_ITS_LOG)
            return
    info = _read_info(channel)
    theirs = info.name if info else _name_by_health(channel, name, others)
    if theirs in others:
        yield problem(
            check, f"{target} is participant {theirs}", f"correct the target in [participants.{name}]"
        )
        return
    streams, batches = _offers_streams(channel), _offers_batches(channel)
    facts = [
        f"{target} is SERVING" if has_health else f"{target} responds; it has no health service",
        "no TLS" if participant.tls is None else "TLS",
        f"serves {theirs}" if theirs else "its name is not offered",
        _OFFERED[streams, batches],
        info.sdk if info else "its version and clock are not offered",
    ]
    remedies = []
    if theirs not in {"", name}:
        remedies.append("does the target belong to it? If so, give both the same name")
    if participant.batched and not streams and not batches:
        remedies.append(
            "is it a participant? If so, set batched = false, or implement StreamBranches or "
            "ExecuteBranches: its branches are called one by one"
        )
    message = "; ".join(facts)
    yield warning(check, message, "; ".join(remedies)) if remedies else ok(check, message)
    if info is not None:
        yield _check_clock(f"{check} clock", info)


def _refused(check: str, participant: ParticipantSettings, error: grpc.RpcError) -> CheckResult:
    code = error.code()
    if code in _REFUSALS:
        return problem(
            check,
            f"{participant.target} refuses this coordinator: {error.details()}",
            "add the name in the coordinator's certificate, or its token, to the participant's callers; or "
            "correct tls or token_file in its table",
        )
    return problem(check, f"{participant.target}: {code.name}: {error.details()}", _ASK_ITS_LOG)


def _check_clock(check: str, info: ParticipantInfo) -> CheckResult:
    ahead_s, error_s = info.clock_ahead_s, info.clock_error_s
    message = f"its clock differs from this machine's by {ahead_s:+.3f} s (± {error_s:.3f} s)"
    if abs(ahead_s) - error_s > CLOCK_AHEAD_MAX_S:
        return warning(
            check,
            message,
            "run NTP on the machines of its database and of the log's: a Try is refused if it arrives after "
            "the expiry by the participant's clock",
        )
    return ok(check, message)


def _read_info(channel: Channel) -> ParticipantInfo | None:
    """Ask the participant several times. None: it does not offer that. Raise RpcError: it failed."""
    try:
        readings = [_read_info_once(channel) for _ in range(_CLOCK_READINGS)]
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        return None
    return min(readings, key=lambda reading: reading.clock_error_s)


def _read_info_once(channel: Channel) -> ParticipantInfo:
    """The clock was read at some moment of the call: the middle is at most half of it away."""
    stub = participant_pb2_grpc.ParticipantServiceStub(channel)
    asked_at = time.time()
    response = stub.GetParticipantInfo(pb.GetParticipantInfoRequest(), timeout=TIMEOUT_S)
    answered_at = time.time()
    theirs = response.server_time.ToNanoseconds() / 1e9
    return ParticipantInfo(
        name=response.participant,
        sdk=response.sdk or "its version is not offered",
        clock_ahead_s=theirs - (asked_at + answered_at) / 2,
        clock_error_s=(answered_at - asked_at) / 2,
    )


def _name_by_health(channel: Channel, name: str, others: Collection[str]) -> str:
    """Return which of the participants this one says it is; empty: none.

    Participants with the SDK have a health service of their own name.
    """
    return next((one for one in (name, *sorted(others)) if _has_health_service(channel, one)), "")


def _has_health_service(channel: Channel, service: str) -> bool:
    try:
        health(channel, service)
    except grpc.RpcError:
        return False
    return True


def _offers_batches(channel: Channel) -> bool:
    """Return whether it implements ExecuteBranches, by a call without branches.

    Raise RpcError: it refuses this coordinator. Other errors are about the empty call.
    """
    stub = participant_pb2_grpc.ParticipantServiceStub(channel)
    return _implements(stub.ExecuteBranches(pb.ExecuteBranchesRequest(), timeout=TIMEOUT_S))


def _offers_streams(channel: Channel) -> bool:
    """Return whether it implements StreamBranches, by a stream without calls. Raise RpcError: as above."""
    stub = participant_pb2_grpc.ParticipantServiceStub(channel)
    return _implements(stub.StreamBranches(iter(()), timeout=TIMEOUT_S))


def _implements(call: Any) -> bool:
    """Return whether a method that returns a stream is implemented. Its end is not waited for."""
    try:
        next(call, None)
    except grpc.RpcError as error:
        if error.code() in _REFUSALS:
            raise
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    finally:
        call.cancel()
    return True


def _why_unreachable(participant: ParticipantSettings) -> str:
    """Return what to check, and whether the target speaks TLS if that is not what is configured."""
    general = "is it running, does its name resolve here, and does a firewall block it?"
    address = participant.target.removeprefix("dns:///")
    try:
        served_certificate(address)
    except (ssl.SSLError, ConnectionResetError):
        speaks_tls = False
    except (OSError, ValueError):
        return f"{general} Do both sides agree on TLS?"
    else:
        speaks_tls = True
    if speaks_tls and participant.tls is None:
        return "it speaks TLS: add tls to its table"
    if not speaks_tls and participant.tls is not None:
        return "it does not speak TLS: remove tls from its table, or give it a certificate"
    return (
        "TLS fails: does ca_file have the authority of its certificate, does server_name match, has its "
        "certificate expired, and does it require a client certificate?"
    )


def _connects(channel: grpc.Channel) -> bool:
    """Return whether the target accepts connections. If every address refuses, do not try again."""
    states = SimpleQueue[grpc.ChannelConnectivity]()
    channel.subscribe(states.put, try_to_connect=True)
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            state = states.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            return False
        if state is grpc.ChannelConnectivity.READY:
            return True
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            return False
