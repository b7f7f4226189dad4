"""Events: messages that are published at a broker after the decision.

- `requests`: the payload;
- `envelope`: an event in CloudEvents format, pure;
- `brokers`: one adapter for every broker, chosen by the scheme of a URL;
- `redis_streams`, `faststream_brokers`, `webhook`: what the adapter does at Redis, at Kafka, RabbitMQ and
  NATS, and at a server that takes HTTP POSTs;
- `publication`, `store`: publishing, and what was published lately;
- `reconcile`: what Redis has lost is found and published again;
- `service`: the handler.
"""
