"""`python -m gopd_jax.train`: the training run, from a config to a summary.

`run` tells the story; `prepare` and `checks` come before it, `step` is what it repeats, `step_log`,
`verdicts`, `summary` and `curves` are what it leaves behind.
"""
