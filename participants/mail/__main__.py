"""The mail service: `python -m participants.mail --database URL [--listen HOST:PORT]`."""

from participants.mail.service import mail
from participants.mail.store import metadata
from participants.serving import arguments, main

if __name__ == "__main__":
    main(arguments(__doc__).parse_args(), mail, metadata)
