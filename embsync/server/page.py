"""``/``: the web page; one file, without a build step, which loads nothing from another host."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from embsync.reporting.page import STYLE

#: The first style is that of reports, so that the headers allow both pages, and parts of a report look alike on both.
HTML = (
    files("embsync.server")
    .joinpath("page.html")
    .read_text(encoding="utf-8")
    .replace("<style></style>", f"<style>{STYLE}</style>")
)


def _hashes(tag: str) -> str:
    """Return the sources of a content security policy that allow exactly the page's own scripts or styles."""
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts)


HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data:; "
    f"script-src {_hashes('script')}; style-src {_hashes('style')}; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
