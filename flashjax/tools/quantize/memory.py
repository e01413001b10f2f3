"""`quantize --memory`: what a deployment needs, for every precision, from shapes alone."""

from flashjax.convert import folder as folders
from flashjax.models.text import TextConfig
from flashjax.models.variants import MMDIT, NANO_LENGTH, SD3_TEXT, SD3_VAE
from flashjax.quantize.memory import Need, Sizes, needs, wider
from flashjax.stages.model import PACKAGED, packaged
from flashjax.types import InputError

FORMATS = {  # of the transformer, and of the T5 that its runtime takes with it; "" is 16 bits
    "gguf-f16": "",
    "gguf-q8_0": "t5-gguf-q8_0",
    "comfy-int8": "t5-comfy-fp8",
    "gguf-q6_k": "t5-gguf-q6_k",
    "mlx-6": "",
}
PIXELS = (512, 1024)
T5_TOKENS = 256
CLIPS = ("clip_l", "clip_g")
HEAD = (
    "| format | transformer | CLIPs | T5 | VAE | transformer runs | VAE runs | loaded | "
    "loaded, no T5 | in turn | in turn, no T5 |\n" + "|---" * 11 + "|"
)


def print_table(names: str) -> None:
    """A Markdown table of GiB for each model of `names`, at each size of its pictures."""
    for name in names.split(","):
        sizes, sides = sizes_of(name)
        for pixels in sides:
            print(f"\n{name}, {pixels} x {pixels}, GiB\n\n{HEAD}")
            for format_name, found in needs(sizes, FORMATS, pixels=pixels).items():
                print(line(format_name, found), flush=True)
        for format_name in FORMATS:
            for kind, share in wider(sizes.transformer, format_name).items():
                print(
                    f"\n{format_name} has {100 * share:.0f} % of its weights in {kind}: "
                    "their rows are no whole blocks of its own type"
                )


def sizes_of(name: str) -> tuple[Sizes, tuple[int, ...]]:
    """The networks of a model by name, and the sides of the pictures that it is asked for."""
    if name in PACKAGED:
        known = folders.read_configs(packaged(name))
        text = TextConfig(known["clip_l"], known["clip_g"], known["t5"])
        side = folders.settings(packaged(name))["sample_size"] * known["vae"].factor
        return Sizes(known["transformer"], text, known["vae"], NANO_LENGTH), (side,)
    if name not in MMDIT:
        raise InputError(f"--memory {name}: choose of {', '.join(MMDIT)}")
    return Sizes(MMDIT[name], SD3_TEXT, SD3_VAE, T5_TOKENS), PIXELS


def line(name: str, found: Need) -> str:
    """The needs with the transformer in one format."""
    without = ("transformer", *CLIPS, "vae")
    whole = (*without, "t5")
    weights = found.weights
    cells = (
        weights["transformer"],
        sum(weights[clip] for clip in CLIPS),
        weights["t5"],
        weights["vae"],
        found.activations["transformer"],
        found.activations["vae"],
        found.loaded(whole),
        found.loaded(without),
        found.in_turn(whole),
        found.in_turn(without),
    )
    return f"| {name} | " + " | ".join(f"{cell / 2**30:.3g}" for cell in cells) + " |"
