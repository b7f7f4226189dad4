"""The payloads of this participant."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Word = Annotated[str, Field(min_length=1, max_length=128)]


class Publish(BaseModel):
    """An event: its topic, the attributes of CloudEvents that its initiator chooses, and its data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The stream, topic, queue or subject at the broker.
    topic: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    # For example shop.order.confirmed.
    type: Word
    # What it is about, for example an order. Kafka keeps the order of events with one subject.
    subject: Word | None = None
    data: dict[str, Any]
