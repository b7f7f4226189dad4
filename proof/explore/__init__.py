"""Every interleaving of a small system: the real core, real rows and the real barrier, and an adversary.

`python -m proof.explore` visits every state that a scope (`scope`) can reach, breadth
first, and checks in each what the design promises. The world outside the core
(`world`) follows the engine's rules: what a step wants written is queued, and only
when the log has answered does the core learn of it; a write is a compare-and-set on
owner and version; taking over is one too; memory is lost in a crash, rows are not.

What makes it finite, without hiding anything that the code can tell apart:

- Time is before or after the expiry, apart for the log and for participants; what is
  due is due sooner or later, in either order.
- Versions are kept as what they are compared for: how far a memory lags behind the row.
- A message that was ever sent may be delivered at any time and any number of times. A
  lost one is never delivered.
- What nothing ever reads (error texts, reasons, counters beyond their limits) is wiped.
- The two coordinators are alike, and so are two equal transactions: of states that
  differ by their names only, one is visited.
"""
