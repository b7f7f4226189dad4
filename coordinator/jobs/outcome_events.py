"""Outcomes in CloudEvents format (1.0, JSON). Pure functions.

An event that is published twice has the same id. It has neither payloads nor results.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from coordinator.ports.outcomes import Outcome, OutcomeKind

CONTENT_TYPE = "application/cloudevents+json"
BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"
_encode = msgspec.json.Encoder().encode


def event_type(outcome: Outcome) -> str:
    """Return the type of its event."""
    return f"tcc.transaction.{_kind(outcome).value}"


def event_data(outcome: Outcome) -> dict[str, Any]:
    """Return what its event says. It is the same each time."""
    data: dict[str, Any] = {
        "gid": outcome.gid,
        "state": outcome.state.name,
        "tenant": outcome.tenant,
        "initiator": outcome.initiator,
        "labels": msgspec.Raw(outcome.labels.encode()),
        "created_at": _text(outcome.created_at),
        "decided_at": _text(outcome.decided_at),
        "ended_at": _text(outcome.ended_at),
    }
    if outcome.cancel_reason:
        data |= {
            "cancel_reason": outcome.cancel_reason.name,
            "cancel_branch_id": outcome.cancel_branch_id,
            "cancel_detail": outcome.cancel_detail,
        }
    return data


def event_json(outcome: Outcome, *, source: str) -> bytes:
    """Return its event."""
    return _encode(_event(outcome, source))


def batch_json(outcomes: Sequence[Outcome], *, source: str) -> bytes:
    """Return the events of several outcomes as one batch."""
    return _encode([_event(outcome, source) for outcome in outcomes])


def _event(outcome: Outcome, source: str) -> dict[str, Any]:
    event = {
        "specversion": "1.0",
        # Of two gids it differs, also if they hold a slash.
        "id": f"{quote(outcome.gid, safe='')}/{_kind(outcome).value}",
        "source": source,
        "type": event_type(outcome),
        "subject": outcome.gid,
        "datacontenttype": "application/json",
        "data": event_data(outcome),
    }
    # A stuck transaction has no time of its own at which it became stuck.
    at = outcome.ended_at or outcome.decided_at
    return event if at is None else {**event, "time": _text(at)}


def _kind(outcome: Outcome) -> OutcomeKind:
    assert outcome.kind is not None, "it has no outcome yet"
    return outcome.kind


def _text(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()
