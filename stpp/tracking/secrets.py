"""What may be said of addresses and errors: all but passwords, tokens and signatures."""

import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

HIDDEN = "***"
VARIABLE = re.compile(r"(PASSWORD|PASSWD|TOKEN|SECRET|SECRET_KEY|ACCESS_KEY|ACCESS_KEY_ID|API_?KEY)\Z", re.IGNORECASE)
"""Names of variables of the environment whose values are secret."""
# Greedy, to the last @: a password may hold any sign, also one that ends an address by the rules.
USER = re.compile(r"://(?!/)([^\s\"'<>]*)@")
ASKED = re.compile(
    r"([\w.-]*(?:passw|pwd|token|secret|signature|credential|key|auth)[\w.-]*=|\bsig=)([^&;\s\"'<>]+)", re.IGNORECASE
)


def without_secrets(text: str) -> str:
    """A text for a person to read: what the environment or an address in it keeps secret is ***."""
    known = {form for secret in _secrets() for form in (secret, unquote(secret), quote(secret, safe="")) if form[1:]}
    if known:
        one_of = "|".join(re.escape(secret) for secret in sorted(known, key=len, reverse=True))
        text = re.sub(rf"(?<!\w)(?:{one_of})(?!\w)", HIDDEN, text, flags=re.IGNORECASE)
    return ASKED.sub(rf"\g<1>{HIDDEN}", USER.sub(f"://{HIDDEN}@", text))


def _secrets() -> Iterator[str]:
    """Secret values of the environment, and parts of passwords, which a library may take for a host or a port."""
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
    """The address of a server as a person can open it, without user, password, and what is asked."""
    return re.split(r"[?#]", USER.sub("://", uri))[0].rstrip("/")


def hide_in_logs() -> None:
    """What MLflow and its libraries log to stderr shows no secret."""
    for handler in (*logging.getLogger("mlflow").handlers, logging.lastResort):
        if handler is not None:
            handler.addFilter(_hide)


def _hide(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_secrets(record.getMessage()), None
    record.exc_info = record.exc_text = None  # it repeats the error
    return True
