"""From the words of a command line to an endpoint: an address with its key and the model's name, or the server of ours that runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from toolkit import servers, serving
from toolkit.engines import Endpoint, catalogue
from toolkit.errors import FailedError, NotReadyError, UsageError


@dataclass(frozen=True)
class Address:
    """What a command line says of an endpoint; None leaves it to be found out."""

    url: str | None
    model: str | None
    engine: str | None
    key_file: Path | None = None
    """File with the API key; OPENAI_API_KEY where none is named."""

    def endpoint(self, store: Path, timeout: float = 10.0) -> Endpoint:
        """Return the endpoint asked for, or the one server of ours that runs; `timeout` bounds a look at it in seconds.

        UsageError for what is no address or no key, NotReadyError where nothing answers, or no server of ours runs.
        """
        if self.url is None:
            return servers.first(servers.folder_of(store)).endpoint
        _check_url(self.url)
        key = _key(self.key_file)
        found = Endpoint(self.engine or serving.detect(self.url, key, timeout), self.url.rstrip("/"), self.model or "", key)
        return found if self.model else replace(found, model=_first_name(found, timeout))


def key_of(file: Path) -> str:
    """Return what an API key's file holds; UsageError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the API key cannot be read: {error}", "name a file that holds the key in one line") from error


def _key(file: Path | None) -> str | None:
    """Return the key of a file or of the environment; UsageError where it is none, told without its words: an HTTP library would print them."""
    key = key_of(file) if file else os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key) or (file and not key):
        raise UsageError(f"{file or 'OPENAI_API_KEY'} does not hold one key", 'OPENAI_API_KEY="$(cat FILE)", with one line in the file')
    return key or None


def _check_url(url: str) -> None:
    """Refuse what is no HTTP address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{url!r} is no address of an endpoint", "name one as http://host:port/v1")


def _first_name(found: Endpoint, timeout: float) -> str:
    """Return the first name that an endpoint lists; NotReadyError where it lists none."""
    remedy = "name the model with --model"
    try:
        listed = catalogue.names(found, timeout)
    except FailedError as error:
        raise NotReadyError(f"the endpoint does not say what it serves: {error.message}", remedy) from error
    if not listed:
        raise NotReadyError(f"{found.url} lists no model", remedy)
    return listed[0]
