"""What scripts write into the project's Markdown, in place of what they wrote there before."""

from __future__ import annotations

import re


def between(document: str, name: str, text: str) -> str:
    """The document with this text between its marks `<!-- NAME -->` and `<!-- end -->`."""
    return re.sub(
        rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)",
        lambda marks: f"{marks[1]}\n{text}\n\n{marks[2]}",
        document,
        flags=re.S,
    )
