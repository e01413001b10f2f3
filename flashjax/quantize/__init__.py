"""Formats of few bits: codecs, containers, graphs of runtimes. Public: what `__all__` lists."""

__all__ = ("formats",)
