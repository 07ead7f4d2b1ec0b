"""Sampling from a model: requests in, finished rollouts out, in any order. Does not know teachers."""
