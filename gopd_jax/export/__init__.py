"""Command: the student of a run as a Hugging Face folder with a model card, and on the hub.

In: a run folder with a checkpoint. Out: a model folder, which may be pushed to the hub. The run is
only read.
"""
