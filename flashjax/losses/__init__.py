"""Losses: predictions to scalars, no network and no state. Public: what `__all__` lists."""

__all__ = (
    "adversarial",
    "autoencoder",
    "distribution_matching",
    "flow_matching",
    "trajectory",
)
