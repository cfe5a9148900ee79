"""Removal of passwords, tokens and signatures from addresses and errors that are shown."""

import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

HIDDEN = "***"
VARIABLE = re.compile(r"(PASSWORD|PASSWD|TOKEN|SECRET|SECRET_KEY|ACCESS_KEY|ACCESS_KEY_ID|API_?KEY)\Z", re.IGNORECASE)
"""Matches names of environment variables whose values are secret."""
# Greedy, up to the last @: a password may contain any character, even one that by the rules ends the address.
USER = re.compile(r"://(?!/)([^\s\"'<>]*)@")
ASKED = re.compile(
    r"([\w.-]*(?:passw|pwd|token|secret|signature|credential|key|auth)[\w.-]*=|\bsig=)([^&;\s\"'<>]+)", re.IGNORECASE
)
"""Matches secret values in the query of an address, such as `token=...`."""


def without_secrets(text: str) -> str:
    """Return a text that can be shown: each secret in it is replaced by ***.

    Secrets are the secret values of the environment, and passwords and tokens in addresses.
    """
    known = {form for secret in _secrets() for form in (secret, unquote(secret), quote(secret, safe="")) if form[1:]}
    if known:
        one_of = "|".join(re.escape(secret) for secret in sorted(known, key=len, reverse=True))
        text = re.sub(rf"(?<!\w)(?:{one_of})(?!\w)", HIDDEN, text, flags=re.IGNORECASE)
    return ASKED.sub(rf"\g<1>{HIDDEN}", USER.sub(f"://{HIDDEN}@", text))


def _secrets() -> Iterator[str]:
    """Yield the secret values of the environment, and the parts of passwords in addresses.

    A library may take such a part for a host or a port, and show it in an error.
    """
    for name, value in os.environ.items():
        if VARIABLE.search(name):
            yield value
        for found in USER.finditer(value):
            user, _, password = found[1].partition(":")
            yield password or user
            yield from re.split(r"[/?#@:]", password or user)
        if "://" in value:
            yield from (found[2] for found in ASKED.finditer(value))


def link(uri: str) -> str:
    """Return the address of a server for a person to open: without user, password, query and fragment."""
    return re.split(r"[?#]", USER.sub("://", uri))[0].rstrip("/")


def hide_in_logs() -> None:
    """Remove secrets from what MLflow and its libraries log to stderr."""
    for handler in (*logging.getLogger("mlflow").handlers, logging.lastResort):
        if handler is not None:
            handler.addFilter(_hide)


def _hide(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_secrets(record.getMessage()), None
    record.exc_info = record.exc_text = None  # the traceback repeats the error
    return True
