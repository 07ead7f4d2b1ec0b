"""Contract checks: what student, teachers, reference, sampler and learner must agree on, measured.

`python -m gopd_jax.check --config=FILE` makes them alone; a training run makes them before step 0.
"""
