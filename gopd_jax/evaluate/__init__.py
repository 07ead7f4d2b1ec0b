"""A model's score on benchmarks: suites -> samples -> verdicts -> figures -> a table, and the difference to another model.

`suites.py` reads the problems, `grading.py` verifies samples as they come, `scores.py` makes the figures, `table.py` shows
them, `__main__.py` is the command.
"""
