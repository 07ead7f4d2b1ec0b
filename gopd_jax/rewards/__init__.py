"""Verified rewards: an answer's text and a ground truth in, a verdict out. Imports no JAX."""
