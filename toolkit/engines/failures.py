"""What goes wrong between us and an endpoint, said in our errors: one message and one remedy a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai

from toolkit.engines import Endpoint
from toolkit.engines.connection import Overdue
from toolkit.engines.wire import sent_away, unreachable
from toolkit.errors import FailedError, NotReadyError, RefusedError, ThinkshipError

LOG = "look at the server's log"
ADDRESS = "is it an OpenAI-compatible address ending in /v1?"


@contextmanager
def translated(endpoint: Endpoint, timeout: float) -> Iterator[None]:
    """Turn what the OpenAI client and its HTTP library raise into our errors.

    NotReadyError where the endpoint is not there, does not let us in or does not know the model; FailedError for everything else.
    """
    where = endpoint.url
    try:
        yield
    except (openai.APITimeoutError, httpx2.TimeoutException) as error:
        raise _late(where, error, timeout) from error
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, httpx2.RemoteProtocolError | httpx2.ReadError):
            raise FailedError(f"{where}: the connection broke off in the answer ({cause})", LOG) from error
        raise unreachable(where, cause) from error
    except openai.APIStatusError as error:
        raise _by_status(endpoint, error) from error
    except openai.OpenAIError as error:
        raise FailedError(f"{where}: {_words(error)}", LOG) from error
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError, LookupError) as error:
        # The client builds its objects unchecked, so an answer of another shape shows itself as one of these.
        raise FailedError(f"{where} answers what is no chat completion ({error})", ADDRESS) from error


def _late(where: str, error: Exception, timeout: float) -> ThinkshipError:
    cause = error.__cause__ or error
    if isinstance(cause, httpx2.ConnectTimeout):
        return unreachable(where, cause)
    words = f"the answer did not end within {timeout:g} s" if isinstance(cause, Overdue) else f"no answer within {timeout:g} s"
    return FailedError(f"{where}: {words}", "the server hangs or is too slow: look at its log")


def _by_status(endpoint: Endpoint, error: openai.APIStatusError) -> ThinkshipError:
    where, status, words = endpoint.url, error.status_code, _words(error)
    if getattr(error, "code", None) == "insufficient_quota":  # a 429 that no waiting mends
        return NotReadyError(f"{where} answers {status}: {words}", "add to the account, or use a key of another one")
    if away := sent_away(where, status, error.response.headers):
        return away
    if status == 404 and "model" in words.lower():
        return NotReadyError(f"{where} knows no model {endpoint.model!r} ({words})", "ask its /v1/models for the names it serves")
    if status == 404:
        return NotReadyError(f"{where} has no such place: {words}", ADDRESS)
    return (RefusedError if status < 500 else FailedError)(f"{where} answers {status}: {words}", LOG)


def no_completion(endpoint: Endpoint, reply: Any) -> FailedError:
    """Say that an answer has another shape than a chat completion's."""
    return FailedError(f"{endpoint.url} answers what is no chat completion: {' '.join(str(reply).split())[:120]}", ADDRESS)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
