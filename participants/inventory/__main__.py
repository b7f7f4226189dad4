"""The inventory service: `python -m participants.inventory --database URL [--listen HOST:PORT]`."""

from participants.inventory.service import inventory
from participants.inventory.store import metadata
from participants.serving import arguments, main

if __name__ == "__main__":
    main(arguments(__doc__).parse_args(), inventory, metadata)
