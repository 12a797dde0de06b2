"""An endpoint's list of models: the names that can be asked for, and who owns them."""

from __future__ import annotations

from typing import Any

from toolkit.engines import Endpoint
from toolkit.engines.wire import ask


def listed(endpoint: Endpoint, timeout: float = 10.0) -> tuple[dict[str, Any], ...]:
    """Return the entries of /models, none where it lists none; FailedError where there is no such list, NotReadyError as `wire.ask`."""
    reply = ask(f"{endpoint.url.rstrip('/')}/models", timeout=timeout, key=endpoint.api_key)
    entries = reply.get("data") if isinstance(reply, dict) else None
    return tuple(entry for entry in entries if isinstance(entry, dict)) if isinstance(entries, list) else ()


def names(endpoint: Endpoint, timeout: float = 10.0) -> tuple[str, ...]:
    """Return the names of the models, in the server's order; errors as `listed`."""
    return tuple(str(entry["id"]) for entry in listed(endpoint, timeout) if entry.get("id"))
