"""Everything that runs the method without knowing it: mesh, checkpoints, metrics, progress, provenance."""
