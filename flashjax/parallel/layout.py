"""The layout of every role: which dims of parameters and activations lie on which mesh axes.

The two large dims of a projection lie on `fsdp` (its input) and `tensor` (heads, hidden), so that
the heavy matrix products are split and everything else is gathered. Scanned groups carry a leading
depth dim. Small vectors are replicated.
"""

from jax.sharding import PartitionSpec as P

from flashjax.parallel.sharding import Rules, join_roles

ACTIVATIONS = {
    "batch": ("data", "fsdp"),
    "tokens": "context",
    "heads": "tensor",
    "attended_heads": ("tensor", "context"),  # inside attention, where sequences are whole
    "hidden": "tensor",
    "width": None,
    # What has one row of a sample goes to kernels, not they to it: rows by `data` alone, and their
    # width as kernels are stored.
    "rows": "data",
    "stored": "fsdp",
}

_GROUP = r"(dual|joint)/(image|text)"
_LAST = r"last/(image|text)"

_STAY = (  # used where they are stored: no pass gathers them
    (rf"{_GROUP}/modulation/kernel", P(None, "fsdp", None, None)),
    (rf"{_LAST}/modulation/kernel", P("fsdp", None, None)),
    (r"final_modulation/kernel", P("fsdp", None, None)),
)

MMDIT = Rules(
    params=(
        *_STAY,
        (rf"{_GROUP}/qkv2?/kernel", P(None, "fsdp", None, "tensor", None)),
        (rf"{_GROUP}/proj2?/kernel", P(None, "tensor", None, "fsdp")),
        (rf"{_GROUP}/fc1/kernel", P(None, "fsdp", "tensor")),
        (rf"{_GROUP}/fc2/kernel", P(None, "tensor", "fsdp")),
        (rf"{_LAST}/qkv2?/kernel", P("fsdp", None, "tensor", None)),
        (rf"{_LAST}/proj2?/kernel", P("tensor", None, "fsdp")),
        (rf"{_LAST}/fc1/kernel", P("fsdp", "tensor")),
        (rf"{_LAST}/fc2/kernel", P("tensor", "fsdp")),
        (r"(time|pooled)_[12]/kernel", P("fsdp", None)),
        (r"context_embed/kernel", P("fsdp", None)),
        (r"patch_embed/kernel", P(None, "fsdp")),  # its input is short
        (r"final/kernel", P("fsdp", None)),
        (r"position", P(None, None, "fsdp")),  # SD3.5-Medium stores 384 x 384 places
        (r".*/(bias|scale)", P()),
    ),
    activations=ACTIVATIONS,
)

TEXT = Rules(  # frozen and read once a batch: split for storage, in whichever dim is long
    params=(
        (r"t5/blocks/(qkv|gates|out)/kernel", P(None, "fsdp")),
        (r"t5/blocks/proj/kernel", P(None, None, None, "fsdp")),
        (r"clip_[lg]/blocks/(qkv|fc1|fc2)/kernel", P(None, "fsdp")),
        (r"clip_[lg]/blocks/proj/kernel", P(None, None, None, "fsdp")),
        (r"clip_[lg]/last/(qkv|fc1|fc2)/kernel", P("fsdp")),
        (r"clip_[lg]/last/proj/kernel", P(None, None, "fsdp")),
        (r"clip_g/projection/kernel", P("fsdp")),
        (r"(t5|clip_[lg])/(tokens|positions)", P(None, "fsdp")),
        (r"t5/position_bias", P()),
        (r"(t5|clip_[lg])/.*(bias|scale)", P()),
    ),
    activations=ACTIVATIONS,
)

# Every head has a count of its own in the optimiser.
HEADS = Rules(params=((r"pool/.*", P()), (r"count", P())), activations=ACTIVATIONS)

# Where there is room no pass gathers a teacher; what stays is split all the same.
WHOLE_MMDIT = Rules(params=(*_STAY, *MMDIT.without("fsdp").params), activations=ACTIVATIONS)

# What the networks of a run are stored in. The learner of guidance is a student.
ROLES = {
    "teacher": MMDIT,
    "whole_teacher": WHOLE_MMDIT,
    "student": MMDIT,
    "learner": MMDIT,
    "fake": MMDIT,
    "heads": HEADS,
    "text": TEXT,
}
STATE = join_roles(ROLES, ACTIVATIONS)

REPLICATED = Rules(params=((r".*", P()),), activations=ACTIVATIONS)
