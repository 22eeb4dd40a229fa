"""Text from data, such as class names, in Markdown documents."""

import re

# Characters with a meaning in Markdown. `:` and `@` are among them because bare URLs and addresses become links.
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$:@])")
_WWW = re.compile(r"\bwww\.", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # a terminal that shows the card would obey them


def escape(value: object) -> str:
    """Return text that Markdown shows literally, on one line, also within a table cell.

    Links, images, HTML, table borders and emphasis in the text have no effect.
    """
    text = one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _SPECIAL.sub(r"\\\1", text)
    return _WWW.sub(lambda match: match[0][:-1] + "\\.", text)


def one_line(value: object) -> str:
    """Return text with line breaks, control characters and repeated spaces replaced by single spaces."""
    return " ".join(_CONTROL.sub(" ", str(value)).split())
