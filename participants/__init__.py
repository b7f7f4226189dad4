"""Three reference participants, each a service with a database of its own, and their audit.

They are meant to be copied. All three have one shape:

- `requests`: what the payloads are;
- a file named after the resource: its states, its table of legal transitions and
  every decision, as pure functions;
- `store`: the tables and the set-based statements, nothing decided there;
- `service`: the handlers, which fetch, let the pure part decide, and write;
- `__main__`: the process.
"""
