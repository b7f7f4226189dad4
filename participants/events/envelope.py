"""An event in CloudEvents format (structured, JSON). Pure functions.

The identity of an event is that of its branch, so an event that is published twice has the same id.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from participants.events.requests import Publish
from tcc import Branch

try:
    from cloudevents.core.base import BaseCloudEvent
    from cloudevents.core.exceptions import BaseCloudEventException
    from cloudevents.core.formats.json import JSONFormat
    from cloudevents.core.v1.event import CloudEvent
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "events need cloudevents: pip install 'tcc-demo[redis]' (or [kafka], [nats], [rabbitmq], [webhook])",
        name=error.name,
    ) from error

CONTENT_TYPE = JSONFormat.CONTENT_TYPE
SOURCE = "/tcc/participants/events"


class Event(NamedTuple):
    """An event that is ready for a broker."""

    event_id: str
    topic: str
    # Events with one key keep their order, where the broker has an order.
    key: str
    body: bytes


def event_id(gid: str, branch_id: str) -> str:
    """Return the id of a branch's event. Of two branches it differs, also if their names hold a slash."""
    return f"{quote(gid, safe='')}/{quote(branch_id, safe='')}"


def envelope(branch: Branch, request: Publish, *, source: str, at: datetime) -> Event:
    """Return the event of a branch. The extension attributes `gid` and `branchid` name the branch."""
    identity = event_id(branch.gid, branch.branch_id)
    attributes: dict[str, object] = {
        "id": identity,
        "source": source,
        "type": request.type,
        "time": at,
        "gid": branch.gid,
        "branchid": branch.branch_id,
    }
    if request.subject is not None:
        attributes["subject"] = request.subject
    return Event(identity, request.topic, request.subject or identity, structured(attributes, request.data))


def structured(attributes: Mapping[str, object], data: dict[str, Any]) -> bytes:
    """Return an event as JSON. Raises BaseCloudEventException if an attribute is not allowed."""
    return JSONFormat().write(CloudEvent({**attributes, "datacontenttype": "application/json"}, data))


def read(body: bytes) -> BaseCloudEvent:
    """Return an event of a consumer. Raises ValueError if it is none."""
    try:
        return JSONFormat().read(None, body)
    except (BaseCloudEventException, TypeError, AttributeError) as error:
        raise ValueError(f"no CloudEvent: {error}") from error
