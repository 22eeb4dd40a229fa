"""The check that all settings share."""

from hf_relabel.errors import UsageError


def require(ok: bool, key: str, value: object, rule: str) -> None:
    """Refuse a setting.

    Args:
        ok: Whether the value is valid.
        key: The setting's dotted name.
        value: Its value.
        rule: What the value must be, to end the sentence "must be ...".

    Raises:
        UsageError: The value is not valid.
    """
    if not ok:
        raise UsageError(f"{key}: must be {rule}, got {value!r}")
