"""Modules that the judge shares with programs and tests, by name. Imports none of them."""

# Imported once before the forks, so that a program's `import` of these costs nothing. A program
# that returns one of them gives the judge's own.
COMMON_MODULES = (
    "array bisect collections copy dataclasses datetime decimal enum fractions functools heapq io "
    "itertools json math operator queue random re statistics string struct threading time typing"
).split()

# The names by which tests may use a module without importing it. It is the judge's own, never what
# the program calls so.
MODULES = {name: name for name in (*COMMON_MODULES, "cmath", "numpy")} | {"np": "numpy"}
