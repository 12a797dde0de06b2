"""The command line and a store of its own, as tests/e2e has them, for a chain that is long and changes seldom."""

from __future__ import annotations

import pytest
from session_store import Thinkship, store, thinkship  # noqa: F401 - pytest finds the fixtures here

from toolkit.runners.tools import lacking_for_ollama


@pytest.fixture(scope="session")
def engines() -> tuple[str, ...]:
    return ("llamacpp", "vllm") if lacking_for_ollama() else ("llamacpp", "ollama", "vllm")
