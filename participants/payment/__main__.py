"""The payment service: `python -m participants.payment --database URL [--listen HOST:PORT]`."""

from participants.payment.service import payment
from participants.payment.store import metadata
from participants.serving import arguments, main

if __name__ == "__main__":
    main(arguments(__doc__).parse_args(), payment, metadata)
