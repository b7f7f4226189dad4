"""Three reference participants, each a service with a database of its own, and their audit.

Use them as templates. All three have the same structure:

- `requests`: the types of the payloads;
- a module named after the resource: its states, its transition table and all
  decisions, as pure functions;
- `store`: the tables and the set-based statements, without decisions;
- `service`: the handlers, which read, call the pure functions, and write;
- `__main__`: the process.
"""
