"""Samples from a model folder, drawn by the rollout engine: no training, no verification.

`__main__` is the command. `options` declares the options it shares with `gopd_jax.evaluate`,
`prompts` reads its prompts, `job` checks a command and draws, `samples_file` is the file that a
second start of the same command resumes, and `run` puts these together.
"""
