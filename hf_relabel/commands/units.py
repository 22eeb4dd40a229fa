"""Numbers formatted for people."""


def human_bytes(size: int) -> str:
    """Format a size in bytes with a decimal unit, such as `12.3 MB`."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"
