"""Adds configs/ to the package, as gopd_jax/configs; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["gopd_jax*"]), "gopd_jax.configs"],
    package_dir={"gopd_jax.configs": "configs"},
)
