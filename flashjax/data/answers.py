"""What a service of buckets answers, as one line where it refuses."""

import contextlib
import errno
import socket
from collections.abc import Iterator

from flashjax.types import InputError, one_line

_LIBRARIES = set("botocore aiobotocore s3fs gcsfs google aiohttp azure adlfs fsspec".split())
_UNREACHED = (PermissionError, ConnectionError, TimeoutError, socket.gaierror)
_CODES = (None, errno.EINVAL, errno.EIO)  # of OSError, where a library translates its service's own


@contextlib.contextmanager
def answering(where: str, *, writing: bool = False) -> Iterator[None]:
    """What a service or its library refuses, as one line; where nobody can write, too."""
    try:
        yield
    except (FileExistsError, InputError):
        raise
    except Exception as error:
        library = type(error).__module__.partition(".")[0]
        absent = isinstance(error, FileNotFoundError)  # nothing to read is for callers to say
        if absent and not writing:
            raise
        translated = absent or (isinstance(error, OSError) and error.errno in _CODES)
        if library not in _LIBRARIES and not isinstance(error, _UNREACHED) and not translated:
            raise
        told = one_line(str(error).strip() or type(error).__name__, 200)
        raise InputError(
            f"{where} cannot be reached ({told}): check the name, and that this machine may read "
            "and write there"
        ) from error
