"""Files are read alike on this machine and elsewhere."""

import fsspec
import pytest

from flashjax.data.files import Address, open_part
from flashjax.data.patterns import expand
from flashjax.types import InputError

NAMES = ("a b.txt", "sub/ü#1.txt", "sub/[x].txt")


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    """A folder with three files and a hidden one, as an address."""
    text = str(tmp_path / "my data") if request.param == "local" else f"memory://{tmp_path}/data"
    files, path = fsspec.core.url_to_fs(text)
    for name in (*NAMES, ".hidden/z.txt"):
        files.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        files.pipe_file(f"{path}/{name}", name.encode())
    return Address.of(text)


def test_an_address_tells_what_is_there(root):
    assert root.is_dir() and not root.is_file() and not root.within("none").is_dir()
    assert root.below() == {name: len(name.encode()) for name in sorted(NAMES)}
    for name in NAMES:
        file = root.within(name)
        assert file.is_file() and file.bytes() == len(name.encode())
        assert file.read_text() == name and file.suffix == ".txt"
        assert str(file) == f"{root}/{name}" and str(file.parent.within(file.name)) == str(file)
    assert root.within("none").bytes() == -1
    with pytest.raises(FileNotFoundError):
        root.within("none").open()


def test_patterns_find_the_same_files_everywhere(root):
    assert [file.name for file in expand(f"{root}/sub/*.txt")] == ["[x].txt", "ü#1.txt"]
    assert [file.read_text() for file in expand(f"{root}/{{a b,sub/ü#1}}.txt")] == list(NAMES[:2])
    for pattern in ("{a b,c}.txt", "none*.txt"):
        with pytest.raises(InputError, match="does not exist: no such file"):
            expand(f"{root}/{pattern}")


def test_a_part_of_a_file_is_a_file(root):
    with open_part(root.within(NAMES[0]), 2, 3) as part:
        assert part.read() == b"b.t" and part.seek(1) == 1 and part.read(10) == b".t"
        assert part.seek(-1, 2) == 2 and part.read() == b"t" and part.read() == b""


def test_links_are_followed_once(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "z").write_text("z")
    for link, target in {"f": "../out/z", "d": "../out", "loop": "..", "gone": "nowhere"}.items():
        (tmp_path / "in" / link).symlink_to(target)
    found = Address.of(tmp_path / "in").below()
    assert found["f"] == found["d/z"] == 1 and found["gone"] == -1
    assert len(found) < 8 and list(found) == sorted(found)


def test_what_cannot_be_reached_is_said_in_one_line():
    with pytest.raises(InputError, match=r"^gs://b/x: gs:// needs .* pip install gcsfs$"):
        Address.of("gs://b/x")
    with pytest.raises(InputError, match=r"^s3://b/x: s3:// needs .* pip install s3fs$"):
        Address.of("s3://b/x")
    with pytest.raises(InputError, match=r"^gg://b: gg:// is unknown"):
        Address.of("gg://b")
