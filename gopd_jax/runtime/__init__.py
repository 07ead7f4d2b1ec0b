"""The machine: mesh, compiled programs, processes, checkpoints, files, logs. Knows no method."""
