"""A model's score on benchmarks, and the held-out evaluations of a training run.

    suites -> samples -> verdicts -> figures -> a table, and the difference to another model

`__main__` is the command and `run` its story. `catalog` names the known benchmarks, `suites` reads
the problems, `grading` verifies samples as they come, `scores` computes the figures with
`statistics`, and `table` shows them. `held_out` evaluates within a training run; `settings` holds
what a run's config says about that.
"""
