"""Plans a run for a slice that is not here: memory, traffic, time, and what to change to fit."""
