"""The payloads of this participant."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class ChargeCard(BaseModel):
    """One customer's payment of one order, in cents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    customer_id: Annotated[str, Field(min_length=1, max_length=64)]
    cents: Annotated[int, Field(gt=0, le=100_000_000)]
