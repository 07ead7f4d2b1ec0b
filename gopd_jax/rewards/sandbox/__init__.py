"""The sandbox of programs under test: forked processes and the kernel features that confine them.

Comes in, from `gopd_jax.rewards.code`: a program and file descriptors. Goes out: the values the
program returns. Does not know tests, expected values, or verdicts.
"""
