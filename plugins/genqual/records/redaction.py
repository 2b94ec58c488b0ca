"""URLs as they may be shown: without password, token or key. Pure: the standard library only."""

from __future__ import annotations

import re
import shlex
from typing import Final
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN: Final = "***"

_SECRET = re.compile(r"(?i)([?&;][^=&;#]*(?:pass|pwd|secret|token|key|sig|cred|auth)[^=&;#]*=)([^&;#]*)")


def scheme(url: str) -> str:
    """`postgresql` of `postgresql+psycopg://...`; empty when there is none."""
    head, separator, _ = url.partition("://")
    return head.partition("+")[0].lower() if separator else ""


def redact(url: str) -> str:
    """`url` with everything before the host's @ and every secret-looking query value replaced by ***.

    A password that should have been quoted and holds /, ?, # or @ is still covered: rather too much than too little.
    """
    head, userinfo, host = _split(url)
    shown = f"{head}{HIDDEN}@{host}" if userinfo else url
    return _SECRET.sub(rf"\g<1>{HIDDEN}", shown)


def redact_command(command: str) -> str:
    """A command line, as a shell would read it, with every URL in it redacted; unchanged when none needs it."""
    try:
        words = shlex.split(command)
    except ValueError:  # an open quote: no shell would run it, but a password may stand in it all the same
        words = [command]
    shown = [redact(word) if "://" in word else word for word in words]
    return command if shown == words else shlex.join(shown)


def scrub(text: str, url: str) -> str:
    """`text`, such as a driver's message, with every secret of `url` replaced by ***."""
    _, userinfo, _ = _split(url)
    secrets = {userinfo, userinfo.partition(":")[2], *(match[2] for match in _SECRET.finditer(url))}
    forms = {form for secret in secrets for form in (secret, unquote(secret), unquote_plus(secret))}
    forms |= {encoded for form in forms for encoded in (quote(form, safe=""), quote_plus(form), repr(form)[1:-1])}
    for form in sorted(forms, key=len, reverse=True):
        if form:
            text = text.replace(form, HIDDEN)
    return text


def _split(url: str) -> tuple[str, str, str]:
    """Scheme with ://, what stands before the last @, and what after; a path that begins at once has no user."""
    head, separator, rest = url.partition("://")
    if not separator:
        head, rest = "", url
    if rest.startswith("/"):
        return head + separator, "", rest
    userinfo, _, host = rest.rpartition("@")
    return head + separator, userinfo, host
