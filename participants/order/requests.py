"""The payloads of this participant."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=64)]


class OpenOrder(BaseModel):
    """One customer's order of one SKU, with a coupon or without."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The initiator's own number. An order number is never used twice, not even
    # after a cancellation.
    order_id: Name
    customer_id: Name
    sku: Name
    quantity: Annotated[int, Field(gt=0, le=1_000_000)]
    coupon_id: Name | None = None
