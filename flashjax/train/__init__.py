"""Training: builders of pure steps, their states and optimisers. Public: what `__all__` lists."""

__all__ = ("arms", "average", "guide", "match", "merge", "optim", "state", "teach")
