"""Own data as teams have it: photographs of many shapes with captions, a file of prompts, and dirt.

The photographs are crops of the two that scikit-learn ships.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SUBJECTS = {"china.jpg": "an old temple with a curved roof", "flower.jpg": "a flower in a garden"}
PLACES = ("upper left", "upper right", "lower left", "lower right")
RATIOS = (1.0, 1.33, 0.75, 1.9)  # width to height
SUFFIXES = ("png", "jpg", "webp", "jpeg")
FAR_TOO_LONG = 600  # words, each a token
PROMPTS = (
    "an old temple with a curved roof",
    "a flower in a garden 🌸 after rain",
    "crème brûlée, naïve façade, 寺",
    "  a garden   with a temple  ",
    "a (flower:1.2), [roof], <lora:garden:0.8>",
    " ".join(["temple garden flower roof curved old"] * (FAR_TOO_LONG // 6)),
    "A TEMPLE",
    "a photograph of a flower in the upper left",
)


def words() -> list[str]:
    """What the tokenizers know as whole words: those of the captions."""
    told = [*SUBJECTS.values(), *PLACES, "a photograph of the", "after rain"]
    return sorted({word for text in told for word in text.split()})


def write_pictures(folder: Path, count: int, side: int) -> int:
    """Writes captioned crops, at least `side` pixels high and wide, and dirt among them.

    Returns how many pictures there are; four of them, "broken 0.png" and others, cannot be read.
    """
    folder.mkdir(parents=True)
    photographs = dict(zip(SUBJECTS, load_sample_images().images, strict=True))
    random = np.random.default_rng(0)
    for number in range(count):
        name, suffix = random.choice([*SUBJECTS]), random.choice(SUFFIXES)
        crop, place = _crop(photographs[name], RATIOS[number % len(RATIOS)], side, random)
        _write(folder / f"{number:04}.{suffix}", crop, f"{SUBJECTS[name]}, {place}")
    square = Image.fromarray(photographs["china.jpg"][:side, :side])
    _write(folder / "a name with spaces.png", square, "an old temple\r\n")
    faded = square.convert("RGBA")
    faded.putalpha(Image.linear_gradient("L").resize(faded.size))
    _write(folder / "transparent.png", faded, "a temple that fades")
    _write(folder / "printed.jpg", square.convert("CMYK"), "a temple as printers have it")
    _write(folder / "grey.webp", square.convert("L"), " ".join(["temple"] * FAR_TOO_LONG))
    _write(folder / "tiny.png", square.resize((20, 20)), "a temple from far away")
    whole = (folder / "a name with spaces.png").read_bytes()
    for number, kept in enumerate((0, 20, len(whole) // 2, len(whole) - 40)):
        (folder / f"broken {number}.png").write_bytes(whole[:kept])
        (folder / f"broken {number}.txt").write_text("a temple that was lost")
    return len(list(folder.glob("*.txt")))


def write_prompts(path: Path) -> int:
    """Writes a prompt file as editors on several systems leave it; how many prompts it holds."""
    ends = ("\r\n", "\n", "\r\n\r\n", "\n   \n")
    lines = "".join(prompt + ends[i % len(ends)] for i, prompt in enumerate(PROMPTS))
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    return len(PROMPTS)


def _crop(
    photograph: np.ndarray, ratio: float, side: int, random: np.random.Generator
) -> tuple[Image.Image, str]:
    """A part of a photograph with this ratio of its sides, and where it lies."""
    height = round(side * max(1.0, 1 / ratio) * random.uniform(1.0, 1.15))
    width = round(height * ratio)
    spare = photograph.shape[0] - height, photograph.shape[1] - width
    top, left = (int(random.integers(length + 1)) for length in spare)
    place = PLACES[2 * (2 * top > spare[0]) + (2 * left > spare[1])]
    return Image.fromarray(photograph[top : top + height, left : left + width]), place


def _write(path: Path, image: Image.Image, caption: str) -> None:
    image.save(path)
    path.with_suffix(".txt").write_text(caption)
