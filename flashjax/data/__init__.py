"""What a run learns from: samples, prompts, tokens, caches. Public: what `__all__` lists."""

__all__ = ("prompts", "samples", "tokenizers")
