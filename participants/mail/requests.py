"""The payloads of this participant."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class SendReceipt(BaseModel):
    """The receipt of one order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    customer_id: Annotated[str, Field(min_length=1, max_length=64)]
    order_id: Annotated[str, Field(min_length=1, max_length=64)]
