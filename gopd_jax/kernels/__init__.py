"""Attention and grouped matrix products: one interface each, with an implementation per platform.

Each operation has a module that declares its interface and the plain XLA version. Other versions
have modules of their own and a row in the tables of `choose`. Does not depend on models, on the
sampler, or on how the cache is managed.
"""
