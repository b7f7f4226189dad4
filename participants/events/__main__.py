"""The events service: `python -m participants.events --database URL --broker URL [--listen HOST:PORT]`."""

from functools import partial

from participants.events.brokers import open_broker
from participants.events.envelope import SOURCE
from participants.events.reconcile import Reconciliation, reconciling
from participants.events.service import events
from participants.events.store import metadata
from participants.serving import arguments, main

if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument(
        "--broker",
        required=True,
        metavar="URL",
        help="redis://HOST:PORT (or rediss:, unix:), kafka://HOST:PORT[,HOST:PORT], amqp://USER@HOST/VHOST, "
        "nats://HOST:PORT/STREAM, or a webhook: https://HOST/PATH",
    )
    parser.add_argument("--source", default=SOURCE, help="the source of all events; default: %(default)s")
    parser.add_argument(
        "--stream-entries-max",
        type=int,
        default=1_000_000,
        metavar="N",
        help="Redis: a longer stream loses its oldest entries; default: %(default)s",
    )
    parser.add_argument(
        "--settled-after-s",
        type=float,
        default=10.0,
        metavar="S",
        help="Redis: look for an event so long after it was published; default: %(default)s",
    )
    parser.add_argument(
        "--kept-for-s",
        type=float,
        default=3_600.0,
        metavar="S",
        help="Redis: publish again what a restarted server has lost of so long; default: %(default)s",
    )
    options = parser.parse_args()
    try:
        broker = open_broker(options.broker, stream_entries_max=options.stream_entries_max)
    except ValueError as error:
        parser.error(str(error))
    main(
        options,
        partial(events, broker=broker, source=options.source),
        metadata,
        beside=partial(
            reconciling,
            broker,
            Reconciliation(settled_after_s=options.settled_after_s, kept_for_s=options.kept_for_s),
        ),
    )
