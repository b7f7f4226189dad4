"""The payloads of this participant."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class UseCoupon(BaseModel):
    """Spend one coupon in a transaction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coupon_id: Annotated[str, Field(min_length=1, max_length=64)]
