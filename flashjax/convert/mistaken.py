"""What a path is where a model was expected: its name, and the command that makes a model of it.

Sources: what git-lfs leaves instead of a file, torch's two ways to pickle, the hub's error pages.
"""

import json
import re
import shlex
import zipfile
from pathlib import Path

_HEAD = 512  # bytes that tell a file's kind
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9]+):/+")
_CONVERT = (
    "import torch, safetensors.torch as s; d = torch.load({old}, weights_only=True); "
    's.save_file({{k: v.clone().contiguous() for k, v in d.get("state_dict", d).items() '
    "if isinstance(v, torch.Tensor)}}, {new})"
)
_WITH_WEIGHTS = ("merge", "match", "guide", "import")  # stages that leave a model, the last first
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def other_place(path: Path) -> str | None:
    """What a path is where nothing is, and what to do; None where it is just a path."""
    text = str(path)
    if found := _SCHEME.match(text):  # a path has lost one of two slashes
        text, kind = text[found.end() :], found[1].lower()
        if kind.startswith("http"):
            address = f"{kind}://{text}"
            fetch = f"curl -L -O {shlex.quote(address)}"
            return f"{address} is an address, no path: fetch the file with `{fetch}`"
        if kind != "hf":
            return f"{kind}://{text} is an address, no path: fetch it first, and give the path"
        path = Path(text)
    if _HUB_NAME.fullmatch(text) and (found or not path.parent.exists()):
        fetch = f"`hf download {text} --local-dir {path.name}`"
        return f"{text} is a name on the Hugging Face hub, no path: {fetch}, then give {path.name}"
    return None


def no_folder(text: str) -> str | None:
    """What an address is where only folders will do, and what to do; None for a path."""
    if not (found := _SCHEME.match(text)) or "://" not in text:
        return None
    return (
        f"{text} is an address, no folder: mount what is at {found[1]}:// (gcsfuse, mount-s3) and "
        "give its path"
    )


def absent(path: Path) -> str:
    """What to say of a path where nothing is."""
    if path.is_symlink():
        return f"{path} is a link that leads nowhere: check it (ls -l)"
    return f"{path} does not exist: check the path"


def other_file(path: Path) -> str | None:
    """What a file is that is no safetensors file, and what to do; None where none can tell."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    text = head.lstrip().lower()
    if not head:
        return f"{path} is empty: fetch it anew"
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of git-lfs, not the file: `git lfs pull` in its folder"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return (
            f"{path} is a web page, not the file: fetch the file itself, `hf download` or curl -L"
        )
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return pickle(path)
    if head.startswith(b"GGUF"):
        return f"{path} is a GGUF file: it cannot stand here"
    if head.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return f"{path} is a compressed archive: unpack it, give what is inside"
    if text.startswith(b"{"):
        return f"{path} is a JSON file: give the weights, or the folder that it lies in"
    words = head.decode(errors="ignore")
    whole = len(words.encode()) > len(head) - 4  # but for a character that the end cuts
    if whole and words.strip() and all(c.isprintable() or c in "\t\r\n" for c in words):
        first = words.strip().splitlines()[0][:40]
        return f"{path} is a text that begins {first!r}: fetch the file anew"
    return None


def pickle(path: Path) -> str:
    """That a file is a pickle, which can run code when it is read, and the way to convert it."""
    names = {"old": path, "new": path.with_suffix(".safetensors")}
    code = _CONVERT.format(**{key: _literal(str(name)) for key, name in names.items()})
    convert = f"python -c {shlex.quote(code)}"
    return f"{path} is a pickle, which flashjax never reads: convert it first, {convert}"


def pickles_instead(folder: Path, stem: str) -> str | None:
    """What to say where a folder holds `stem` as a pickle only, as in pytorch_model.bin."""
    found = [path for suffix in PICKLES for path in sorted(folder.glob(f"*{stem}*{suffix}"))]
    return pickle(found[0]) if found else None


def other_folder(folder: Path) -> str | None:
    """What a folder is that is no model, and what to give; None where that cannot be told."""
    if (folder / "snapshots").is_dir():
        found = sorted((folder / "snapshots").iterdir())
        return f"{folder} is the hub's cache: give {found[0]}" if found else None
    inside = [*folder.glob("*/model_index.json"), *folder.glob("transformer/config.json")]
    if inside:
        return f"{folder} has no model_index.json: give {min(inside).parent}, which is in it"
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.gguf"))
    if files:
        return f"{folder} has no model_index.json or config.json: give {files[0]} itself"
    pickled = [path for suffix in PICKLES for path in sorted(folder.glob(f"*{suffix}"))]
    return pickle(pickled[0]) if pickled else None


def workdir(folder: Path) -> str | None:
    """What to give of a folder that stages of a run lie in; None for another."""
    stages = [name for name in _WITH_WEIGHTS if (folder / name / "stage.json").is_file()]
    if not stages:
        return None
    return f"{folder} is a workdir: give the folder of a stage in it, as {folder / stages[0]}"


def _literal(text: str) -> str:
    """The text in Python, between double quotes: single ones are the shell's."""
    return json.dumps(text, ensure_ascii=False)


def _archive(path: Path) -> str:
    """Of a zip: torch's way to pickle has data.pkl inside."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return f"{path} is a zip file that is cut short: fetch it anew"
    if any(name.endswith("data.pkl") for name in names):
        return pickle(path)
    return f"{path} is a zip file: unpack it, give what is inside"
