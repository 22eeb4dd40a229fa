"""What the Hub says is shown as it says it, and it is waited as long as it asks for."""

import email.utils
import time
from types import SimpleNamespace

import pytest

from hf_relabel.hub import answers


def failure(status: int, body: object = None, **headers: str) -> Exception:
    """An error as the client raises it, with the response's status, headers (`_` for `-`) and JSON body."""
    error = ConnectionError()
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    error.response = SimpleNamespace(status_code=status, headers=named, json=lambda: body)
    return error


def raised_from(cause: Exception, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_the_delay_of_retry_after():
    assert answers.asked_delay(failure(429, Retry_After="120")) == 120
    assert answers.asked_delay(failure(503)) is None
    assert answers.asked_delay(failure(503, Retry_After="soon")) is None
    assert answers.asked_delay(TimeoutError()) is None
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert answers.asked_delay(failure(503, Retry_After=date)) == pytest.approx(100, abs=5)
    past = email.utils.formatdate(time.time() - 100, usegmt=True)
    assert answers.asked_delay(failure(503, Retry_After=past)) == 0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ('"api";r=0;t=55', 56),
        ('"api"; r=0; t=55', 56),
        ('"api";r=12;t=300, "resolvers";r=0;t=7', 8),
        ('"api";r=12;t=300', 3),  # this quota is not used up: Retry-After counts
        ("nonsense", 3),
    ],
)
def test_the_delay_of_a_rate_limit(header, seconds):
    assert answers.asked_delay(failure(429, RateLimit=header, Retry_After="3")) == seconds
    assert answers.asked_delay(failure(503, RateLimit=header, Retry_After="3")) == 3, "sent with every response"


def test_the_reason_is_found_wherever_the_client_puts_it():
    full = "Private repository storage limit reached"
    own = failure(403)
    own.server_message = full
    cases = [own, failure(403, {"message": full}), raised_from(own, failure(403))]
    for error in cases:
        assert answers.reason(error) == f"the Hub answered 403 ({full})"
    assert answers.reason(failure(403)) == "the Hub answered 403"
    assert answers.reason(TimeoutError()) == "the Hub cannot be reached (TimeoutError)"


def test_the_refusal_below_other_errors_is_found():
    refusal = failure(403)
    wrapped = raised_from(raised_from(refusal, FileNotFoundError("not in the cache")), RuntimeError("upload"))
    assert answers.transport_error(wrapped) is refusal
    assert answers.transport_error(RuntimeError("a bug")) is None


def test_a_message_is_one_line_without_secrets():
    signed = "403 for url https://bucket.example/a/b?X-Signature=secret&b=1\n more"
    assert answers.one_line(signed) == "403 for url https://bucket.example/a/b more"
    assert len(answers.one_line("word " * 1000)) == 500
