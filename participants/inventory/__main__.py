"""The inventory service: `python -m participants.inventory --database URL [--listen HOST:PORT]`."""

from participants.inventory.gate import StockGate
from participants.inventory.service import inventory
from participants.inventory.store import metadata
from participants.serving import arguments, main

if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument(
        "--ceiling-s",
        type=float,
        default=0.25,
        metavar="S",
        help="how long this process believes that a SKU ran short; 0: it has no gate of its own; "
        "default: %(default)s",
    )
    parser.add_argument("--redis", metavar="URL", help="share a gate: redis://HOST:PORT, rediss: or unix:")
    parser.add_argument(
        "--redis-budget-ms",
        type=float,
        default=10.0,
        metavar="MS",
        help="how long one call of Redis may take; then the database decides; default: %(default)s",
    )
    parser.add_argument(
        "--sync-back-s",
        type=float,
        default=1.0,
        metavar="S",
        help="how often the stock of a SKU in Redis is compared with the database; default: %(default)s",
    )
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve metrics of the shared gate here")
    options = parser.parse_args()
    gate = StockGate(believed_for_s=options.ceiling_s)
    if options.redis is None:
        main(options, lambda database: inventory(database, gate=gate), metadata)
    else:
        from participants.inventory.shared import SharedGate  # it needs the extra [redis]

        shared = SharedGate(
            options.redis,
            budget_s=options.redis_budget_ms / 1000,
            interval_s=options.sync_back_s,
            metrics_address=options.metrics,
        )
        main(
            options,
            lambda database: inventory(database, gate=gate, shared=shared.open(database)),
            metadata,
            beside=shared.running,
        )
