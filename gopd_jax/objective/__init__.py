"""The G-OPD objective: arithmetic on token arrays. Does not know models, sharding or files."""
