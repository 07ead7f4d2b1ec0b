"""Decoder language models: Hugging Face folders in and out, one block for every forward pass.

In: a Hugging Face folder or hub id, and token ids. Out: hidden states, and the log-probs of given
tokens. Does not compute losses.
"""
