"""gopd_jax: Generalized On-Policy Distillation (G-OPD / ExOPD, arXiv 2602.12125) in JAX."""

import os

os.environ.setdefault(
    "TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"
)  # its advice to install PyTorch: only tokenizers are used here

__version__ = "0.1.0"
