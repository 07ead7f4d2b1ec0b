"""Sampling from a model: requests in, finished rollouts out. Does not know teachers or rewards."""
