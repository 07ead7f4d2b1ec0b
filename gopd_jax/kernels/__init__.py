"""Attention and grouped matrix products, one implementation for each kind of device."""
