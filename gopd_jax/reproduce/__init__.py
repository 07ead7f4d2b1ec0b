"""The paper's experiments in the embedded world: arms -> runs over seeds -> scores -> tables.

`arms` says what is trained. `run` spreads the arms and seeds over processes; in each of these,
`worker` calls `work`, which makes the model of one arm and lets `scoring` score it. `tables` and
`pictures` turn the scores into intervals, claims, tables and pictures. `folder` knows where
everything is.
"""
