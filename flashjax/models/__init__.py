"""Networks: MMDiT-X, heads, autoencoder, text encoders. Public: what `__all__` lists."""

__all__ = ("clip", "heads", "mmdit", "t5", "text", "vae")
