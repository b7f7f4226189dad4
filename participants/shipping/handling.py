"""One event becomes one shipment, however often it is delivered."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from participants.events.envelope import read
from participants.shipping import ORDER_CONFIRMED, store
from participants.shipping.store import Shipment
from tcc import Participant


class ConfirmedOrder(BaseModel):
    """The data of an event. Later publishers may add fields."""

    model_config = ConfigDict(frozen=True)

    order_id: Annotated[str, Field(min_length=1, max_length=64)]


async def handle(shipping: Participant, body: bytes) -> None:
    """Ship the order of an event. An event that was handled before, or of another type, changes nothing.

    Raises:
        ValueError: It is no event, or its data is wrong. It will fail again.
        sqlalchemy.exc.DBAPIError: The database failed. Handle the event again.
    """
    event = read(body)
    if event.get_type() != ORDER_CONFIRMED:
        return
    order = ConfirmedOrder.model_validate(event.get_data())
    shipment = Shipment(str(event.get_extension("gid")), str(event.get_extension("branchid")), order.order_id)
    async with shipping.once(f"{event.get_source()} {event.get_id()}") as db:
        if db is not None:
            await store.write(db, shipment)
