"""Distils SD3.5 rectified-flow teachers into few-step students, in JAX, for PyTorch."""

__version__ = "0.2.0"
