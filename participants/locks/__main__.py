"""The lock service: `python -m participants.locks --database URL [--listen HOST:PORT]`."""

from functools import partial

from participants.locks.metrics import LockMetrics, serving_metrics
from participants.locks.service import locks
from participants.locks.store import metadata
from participants.serving import arguments, main

if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve metrics for Prometheus here")
    options = parser.parse_args()
    metrics = LockMetrics()
    main(
        options,
        partial(locks, metrics=metrics),
        metadata,
        beside=partial(serving_metrics, metrics, address=options.metrics) if options.metrics else None,
    )
