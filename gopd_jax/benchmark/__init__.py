"""How fast this machine runs a part of the project.

`__main__` is the command. `rollout` measures sampling of what `workload` makes, and `compiled`
compiles the decode program for a TPU slice that is not here.
"""
