"""What the Hub says when it refuses a request or asks to wait, in one line and without secrets.

The reason may be in the client's error (`server_message`), in the error that it was raised from, in the body's
`message` (git LFS), or in a plain exception that the client raised itself.
"""

import email.utils
import re
import time
from collections.abc import Iterator
from typing import Any

TRANSIENT = (408, 429, 500, 502, 503, 504)
"""HTTP statuses after which the same request may succeed."""

_RATE_LIMIT = re.compile(r"\"[^\"]*\"\s*;\s*r=(\d+)\s*;\s*t=(\d+)")
"""A quota of the header `RateLimit`: remaining requests, seconds until it is full again
(draft-ietf-httpapi-ratelimit-headers)."""

_MAX_LENGTH = 500


def transport_error(raised: BaseException) -> BaseException | None:
    """The error of a request that was refused or not answered: the error itself or one that it was raised from."""
    kinds = _transport_errors()
    chain = [error for error in _causes(raised) if isinstance(error, kinds)]
    # An error with a response says more than one without, such as "not in the cache".
    return next((error for error in chain if status_of(error) is not None), chain[0] if chain else None)


def status_of(error: BaseException) -> int | None:
    """The HTTP status, if there was a response."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    status = status_of(error)
    return status is None or status in TRANSIENT


def asked_delay(error: BaseException) -> float | None:
    """Delay in seconds that the server asks for: `RateLimit` of a used-up quota, or `Retry-After`.

    `Retry-After` is a number of seconds or a date (RFC 9110, section 10.2.3).
    """
    response = getattr(error, "response", None)
    if response is None:
        return None
    quotas = _RATE_LIMIT.findall(response.headers.get("RateLimit", "")) if response.status_code == 429 else []
    if resets := [float(seconds) for remaining, seconds in quotas if remaining == "0"]:
        return max(resets) + 1  # the header has whole seconds
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time()) if date.tzinfo else None


def reason(error: BaseException) -> str:
    """Why a request failed, with the Hub's own words in parentheses if there are any."""
    status = status_of(error)
    if status is None:
        return f"the Hub cannot be reached ({type(error).__name__})"
    words = next(filter(None, map(_words, _causes(error))), None)
    return f"the Hub answered {status}" + (f" ({words})" if words else "")


def client_message(error: Exception) -> str | None:
    """The message of an exception that the client library itself raised; None if it was raised elsewhere.

    The client raises ValueError for refused LFS objects, and hf_xet raises RuntimeError.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    if module.partition(".")[0] not in ("huggingface_hub", "hf_xet") or not isinstance(
        error, ValueError | RuntimeError
    ):
        return None
    return one_line(error) or type(error).__name__


def one_line(message: object) -> str:
    """A message as one line, without the query of its addresses: that of an upload's address is secret."""
    text = re.sub(r"(https?://[^\s?\"'<>]+)\?[^\s\"'<>]*", r"\1", " ".join(str(message).split()))
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 3] + "..."


def _transport_errors() -> tuple[type[BaseException], ...]:
    """The exceptions the client raises when the Hub refuses a request or cannot be reached.

    The client's own error derives from that of its HTTP library (requests or httpx), whose base class is the last
    class before the built-in ones.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    library_base = [cls for cls in HfHubHTTPError.__mro__ if cls.__module__ != "builtins"][-1]
    return (HfHubHTTPError, library_base, LocalEntryNotFoundError, ConnectionError, TimeoutError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the errors that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _words(error: BaseException) -> str | None:
    """What the server wrote: the client's reading of it, or the `message` of a JSON body."""
    message = getattr(error, "server_message", None)
    return one_line(message) if message else _body_message(getattr(error, "response", None))


def _body_message(response: Any) -> str | None:
    try:
        body = response.json()
    except (AttributeError, ValueError, RuntimeError):  # no response, no JSON, or a stream that was not read
        return None
    message = body.get("message") if isinstance(body, dict) else None
    return one_line(message) if isinstance(message, str) and message else None
