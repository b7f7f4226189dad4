"""The coupon service: `python -m participants.coupon --database URL [--listen HOST:PORT]`."""

from participants.coupon.service import coupon
from participants.coupon.store import metadata
from participants.serving import arguments, main

if __name__ == "__main__":
    main(arguments(__doc__).parse_args(), coupon, metadata)
