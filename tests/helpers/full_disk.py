"""A disk on which there is too little space."""

import contextlib
import resource
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def a_full_disk(most_bytes: int) -> Iterator[None]:
    """Limit the size of files written by this process, in bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
