"""The proof that nothing is lost: explorer, simulator, real kills, planted bugs, and the checker of them all.

Each is a program with a make target; each ends with one JSON line on standard
output, and with an exit status other than zero when anything is wrong.
"""
