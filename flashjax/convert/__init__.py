"""PyTorch's layouts to parameters and back, read both ways. Public: what `__all__` lists."""

__all__ = ("folder", "pipeline", "sai", "text", "transformer", "vae")
