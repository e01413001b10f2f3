"""Drawing and judging: samplers, judges, reports. Public: what `__all__` lists."""

__all__ = ("judge", "sample")
