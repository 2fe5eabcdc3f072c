"""The Hub as it is to its users: what it answers, in words and without secrets, and how long it is waited for."""

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator

from huggingface_hub import get_session, get_token, set_client_factory
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from .errors import InputError, first_line
from .files import is_disk_full

# Seconds, of connecting, and of each reading, writing and waiting for a free connection. Its own limit is none.
TIMEOUT = (10, 120, 120, 10)
# The answers of the Hub that may be others a little later, apart from 5xx
PASSING = (408, 409, 412, 425, 429)
ANSWERS = {
    401: "the Hub does not know the token",
    402: "the Hub wants to be paid for it",
    403: "the token may not write there",
    404: "the repository or its revision is gone, or the token may not see it",
    409: "something else is being written there",
    429: "there were too many requests",
}
LOG_IN = "Run `hf auth login`, or set HF_TOKEN, with one that may write."


def on_the_hub(name: str | os.PathLike) -> tuple[str, str | None] | None:
    """Repository and revision of a name that is no folder here but may be one of the Hub: user/repo@revision."""
    match = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\S+))?", str(name))
    return (
        match.groups()
        if match and not os.path.exists(name) and not match[1].partition("/")[2].startswith("checkpoint-")
        else None
    )


def status_of(error: BaseException) -> int | None:
    """The status of the Hub's answer, if an error is one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_refusal(error: BaseException) -> bool:
    """Whether the same request would fail tomorrow, too: a name or a right is wrong, and not the connection."""
    status = status_of(error)
    if status is not None:
        return 400 <= status < 500 and status not in PASSING
    return isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)


def reason_of(error: BaseException, token: str | None = None) -> str:
    """Why the Hub could not be used, in a few words, without the token and without signed addresses."""
    status = status_of(error)
    if status is not None:
        said = str(getattr(error, "server_message", None) or getattr(error.response, "reason_phrase", "")).strip()
        words = ANSWERS.get(status, "the Hub cannot do it now" if status >= 500 else "the Hub refuses it")
        reason = f"{words} ({' '.join(f'{status} {said}'.split())})"
    elif isinstance(error, ValueError) or getattr(error, "filename", None) or is_disk_full(error):
        reason = first_line(error)
    elif isinstance(error, (OSError, HTTPError)):
        reason = f"the Hub cannot be reached ({first_line(error)})"
    else:
        reason = f"{type(error).__name__}: {first_line(error)}"
    for secret in filter(None, (token, _token_or_none())):
        reason = reason.replace(secret.strip(), "…")
    return re.sub(r"(https?://[^\s?]+)\?[^\s)]+", r"\1", reason)


def check_token(token: str | None) -> None:
    """Refuses to begin without a token, or with what cannot be one: HTTP libraries quote it in their errors."""
    token = token or _token_or_none()
    if token is None:
        raise InputError(f"hub_token: there is no token. {LOG_IN}")
    if not re.fullmatch(r"[!-~]+", token):
        raise InputError(
            "hub_token: holds characters that no token has. Copy it again, without spaces or line breaks."
        )


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """
    Within this, huggingface_hub does not wait for ever, and says nothing of what it tries again: its warnings have
    addresses with signatures. Its progress bars are for terminals.
    """
    client = get_session()
    if client.timeout.read is None:  # else the user has a factory of clients with limits of its own
        options = {"event_hooks": client.event_hooks, "follow_redirects": True, "timeout": TIMEOUT}
        set_client_factory(lambda: type(client)(**options))
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    bars = not are_progress_bars_disabled() and not sys.stderr.isatty()
    if bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            enable_progress_bars()


def _token_or_none() -> str | None:
    with contextlib.suppress(Exception):  # a machine's own ways to get one may fail
        return get_token()
    return None
