"""The flow: noise levels, the path, schedules, guidance, solvers. Public: what `__all__` lists."""

__all__ = ("guidance", "path", "schedule", "solvers")
