"""Somebody's own code, with what it imports of its own: found by reading, nothing of it is run."""

import ast
import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SHARED = ("site-packages", "dist-packages")  # folders in which everybody's packages lie


def sources(module: str) -> dict[str, Path]:
    """The file of a module and those that it imports, and they in their turn, by module name.

    They are looked for in the folder that the module's package lies in; where others' packages lie,
    too, in the package alone. An import by a computed name is not seen; {} for a module without a
    file.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        return {}
    deep = module.count(".") + (Path(spec.origin).stem == "__init__")
    root, top = Path(spec.origin).parents[deep], module.partition(".")[0]
    shared = root.name in SHARED or str(root) == sysconfig.get_path("stdlib")
    shared |= (root / "jax").is_dir()  # as of `pip install --target`
    found, waiting = {module: Path(spec.origin)}, [module]
    while waiting:
        name = waiting.pop()
        for other in _imported(found[name], name):
            own = other.partition(".")[0] == top if shared else not other.startswith("flashjax.")
            path = _file_of(root, other) if own and other != "flashjax" else None
            if path is not None and other not in found:
                found[other] = path
                waiting.append(other)
    return found


def _file_of(root: Path, module: str) -> Path | None:
    """The file of a module below a folder, if it is there."""
    place = root.joinpath(*module.split("."))
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((path for path in files if path.is_file()), None)


def _imported(path: Path, module: str) -> Iterator[str]:
    """All that a file may import, and the packages that it and they are in: modules, by name."""
    yield from _and_packages(module)
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # whoever imports it will hear of it
        return
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _and_packages(name)


def _and_packages(module: str) -> Iterator[str]:
    """The module itself, after the packages that it is in: of a.b.c a, a.b and a.b.c."""
    parts = [part for part in module.split(".") if part]
    yield from (".".join(parts[: n + 1]) for n in range(len(parts)))
