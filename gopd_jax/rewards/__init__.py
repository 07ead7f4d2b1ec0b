"""Verified rewards: turns the text of an answer and a ground truth into a verdict.

`verifier.Verifier` is what the trainer calls; `kinds.KINDS` lists the kinds of answers. Imports no
JAX.
"""
