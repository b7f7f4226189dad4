"""The order service: `python -m participants.order --database URL [--listen HOST:PORT]`."""

import random

from participants.order.service import order
from participants.order.slowness import Slowness
from participants.order.store import metadata
from participants.serving import arguments, main

if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument(
        "--slow-fraction", type=float, default=0.0, metavar="0..1", help="the share of calls that are delayed"
    )
    parser.add_argument("--slow-ms", type=float, default=300.0, help="the delay in milliseconds")
    options = parser.parse_args()
    slowness = Slowness(
        fraction=options.slow_fraction, delay_s=options.slow_ms / 1000, random_source=random.Random()
    )
    main(options, order, metadata, interceptors=[slowness] if options.slow_fraction else [])
