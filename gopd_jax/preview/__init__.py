"""What each lambda of a run would converge to, sampled before any training.

    a run's config -> teacher^lambda reference^(1 - lambda), sampled -> scores -> a table, a picture

`__main__` is the command and `run` its story. `points` draws and scores one lambda, `table` and
`picture` show what came of all of them. How two models are drawn from as one is in
`rollout.mixture`.
"""
