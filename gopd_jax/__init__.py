"""gopd_jax: Generalized On-Policy Distillation (G-OPD / ExOPD, arXiv 2602.12125) in JAX."""

__version__ = "0.1.0"
