"""Shipping: consumes the events of confirmed orders from Redis Streams, each once.

It uses redis-py, and not FastStream's subscriber: that one reads or claims, not both, claims one entry at a
time, knows no dead-letter stream, and ends for good when a restarted Redis has lost the group.

- `consumer`: the consumer group, claims, attempts and the dead-letter stream;
- `handling`: the event, the inbox and the shipment;
- `store`: the shipments.
"""

# The topic and the type of the events that are handled here.
TOPIC = "orders"
ORDER_CONFIRMED = "shop.order.confirmed"
