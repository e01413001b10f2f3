"""Distils SD3.5 rectified-flow teachers into few-step students, in JAX, for PyTorch.

`load` gives the model of any checkpoint; it is imported when it is asked for, so that
`import flashjax` is light. The public modules of a room are listed in its `__all__`.
"""

__version__ = "0.2.0"
__all__ = ("InputError", "Model", "__version__", "load")

_HOMES = {"load": "tools.model", "Model": "tools.model", "InputError": "types"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'flashjax' has no attribute {name!r}")
    return getattr(__import__(f"flashjax.{_HOMES[name]}", fromlist=[name]), name)
