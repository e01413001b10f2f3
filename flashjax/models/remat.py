"""What the backward pass keeps of a block; what it does not keep is computed again."""

from typing import Any

import jax

_saved = jax.checkpoint_policies


def _fused_attention(primitive: Any, *_: Any, **__: Any) -> bool:
    """cuDNN's forward pass: its backward pass reads the softmax's statistics, which have no name.

    Without them the whole forward pass would be run again.
    """
    return primitive.name == "dot_product_attention_fwd_wrapper"


_attention = _saved.save_from_both_policies(
    _saved.save_only_these_names("attended"), _fused_attention
)
REMAT = {  # the inputs of scanned blocks are kept in any case
    "none": None,  # everything
    "block": _saved.nothing_saveable,
    "attention": _attention,
    "products": _saved.save_from_both_policies(  # norms and activations are computed again
        _attention, _saved.dots_with_no_batch_dims_saveable
    ),
    "offload": _saved.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["attended"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
