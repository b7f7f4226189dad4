"""`python -m participants.audit`: print one violation per line; exit with 1 if there is any."""

import argparse
import asyncio
import sys

from participants.audit import audit, list_transactions, read_snapshot


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordinator", required=True, metavar="HOST:PORT")
    for name in ("inventory", "coupon", "order"):
        parser.add_argument(f"--{name}", required=True, metavar="URL", help="its database")
    for name in ("payment", "mail", "shipping"):
        parser.add_argument(f"--{name}", default="", metavar="URL", help="its database, if there is one")
    options = parser.parse_args()
    snapshot = asyncio.run(
        read_snapshot(
            inventory=options.inventory,
            coupon=options.coupon,
            order=options.order,
            payment=options.payment,
            mail=options.mail,
            shipping=options.shipping,
        )
    )
    violations = audit(snapshot, list_transactions(options.coordinator))
    print("\n".join(map(str, violations)) or "ok")  # noqa: T201 - this is its output
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
