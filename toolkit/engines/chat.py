"""One conversation with an endpoint through the OpenAI client, whole or streamed; every failure of the client's becomes one of ours here."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import httpx2
import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from toolkit.engines import Answer, Endpoint, Message, engine
from toolkit.engines.reading import FIELDS
from toolkit.engines.wire import is_loopback
from toolkit.errors import FailedError, NotReadyError
from toolkit.recipe import Think


@dataclass(frozen=True)
class Chat:
    """A client of one endpoint, whose connections end with its block; `timeout` bounds the seconds between two bytes, and a streamed
    answer as a whole.
    """

    endpoint: Endpoint
    think: Think = field(default_factory=Think)
    timeout: float = 120.0

    @cached_property
    def _client(self) -> openai.OpenAI:
        http = openai.DefaultHttpxClient(
            trust_env=not is_loopback(self.endpoint.url), verify=_tls(), timeout=httpx2.Timeout(self.timeout, connect=5.0)
        )
        return openai.OpenAI(base_url=self.endpoint.url, api_key=self.endpoint.api_key or "none", max_retries=0, http_client=http)

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        if "_client" in vars(self):
            self._client.close()

    def ask(self, messages: Sequence[Message], max_tokens: int, **options: Any) -> Answer:
        """Return the answer to a conversation, greedy unless the options say otherwise.

        NotReadyError where the endpoint is not there or does not let us in, FailedError where it answers what is no chat completion.
        """
        began = time.monotonic()
        with translated(self.endpoint, self.timeout):
            reply = self._client.chat.completions.create(**self._request(messages, max_tokens, options))
        if not isinstance(reply, ChatCompletion) or not reply.choices:
            raise _no_completion(self.endpoint, reply)
        choice = reply.choices[0]
        if choice.message is None:
            raise _no_completion(self.endpoint, reply)
        answer = self._answer(choice.message.model_dump(), choice.finish_reason, reply.usage)
        return replace(answer, seconds=time.monotonic() - began)

    def tokens(self, messages: Sequence[Message], max_tokens: int) -> tuple[tuple[str, float], ...]:
        """Return the greedy answer as pairs of a token's text and its natural log-probability, none where the server tells none; errors as `ask`."""
        with translated(self.endpoint, self.timeout):
            reply = self._client.chat.completions.create(**self._request(messages, max_tokens, {"logprobs": True}))
        if not getattr(reply, "choices", None):
            raise _no_completion(self.endpoint, reply)
        told = reply.choices[0].logprobs
        return tuple((token.token, token.logprob) for token in (told.content if told else None) or ())

    def stream(self, messages: Sequence[Message], max_tokens: int, **options: Any) -> Answer:
        """Return the answer put together from its stream; FailedError where the stream breaks off or ends without a finish reason."""
        began = time.monotonic()
        message: dict[str, str] = {}
        finish, usage, seen = None, None, 0
        with translated(self.endpoint, self.timeout):
            for chunk in self._client.chat.completions.create(**self._request(messages, max_tokens, options), stream=True):
                if time.monotonic() - began > self.timeout:
                    raise FailedError(f"{self.endpoint.url}: the stream did not end within {self.timeout:g} s", "look at the server's log")
                seen, usage = seen + 1, getattr(chunk, "usage", None) or usage
                finish = _gather(message, chunk) or finish
        if not finish:
            words = f"after {seen} chunks" if seen else "without one chunk"
            raise FailedError(f"{self.endpoint.url}: the stream ended {words} and gave no finish reason", "look at the server's log")
        return replace(self._answer(message, finish, usage), seconds=time.monotonic() - began)

    def complete(self, prompt: str, max_tokens: int) -> tuple[str, int | None]:
        """Continue a text greedily and return the continuation with the number of prompt tokens; errors as `ask`."""
        with translated(self.endpoint, self.timeout):
            reply = self._client.completions.create(model=self.endpoint.model, prompt=prompt, max_tokens=max_tokens, temperature=0)
        if not getattr(reply, "choices", None):
            raise _no_completion(self.endpoint, reply)
        return reply.choices[0].text, reply.usage.prompt_tokens if reply.usage else None

    def models(self) -> tuple[str, ...]:
        """Return the names the endpoint offers; errors as `ask`."""
        with translated(self.endpoint, self.timeout):
            reply = self._client.models.list()
        names = [getattr(model, "id", None) for model in getattr(reply, "data", None) or ()]
        return tuple(name for name in names if name)

    def _request(self, messages: Sequence[Message], max_tokens: int, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.endpoint.model, "messages": list(messages), "max_tokens": max_tokens, "temperature": 0, **options}

    def _answer(self, message: Message, finish: str | None, usage: Any) -> Answer:
        pieces = engine(self.endpoint.engine).read(message, self.think)
        details = getattr(usage, "completion_tokens_details", None)
        return Answer(
            pieces.reasoning,
            pieces.text,
            finish,
            getattr(usage, "prompt_tokens", None),
            getattr(usage, "completion_tokens", None),
            getattr(details, "reasoning_tokens", None),
            pieces.where,
        )


@cache
def _tls() -> ssl.SSLContext:
    """Return the machine's certificates, read once: that takes longer than a short answer."""
    return ssl.create_default_context()


def _gather(message: dict[str, str], chunk: ChatCompletionChunk) -> str | None:
    """Add a chunk's pieces to the message and return its finish reason."""
    if not getattr(chunk, "choices", None):
        return None
    delta = chunk.choices[0].delta
    for name in ("content", *FIELDS):
        piece = getattr(delta, name, None)
        if piece:
            message[name] = message.get(name, "") + piece
    return chunk.choices[0].finish_reason


@contextmanager
def translated(endpoint: Endpoint, timeout: float) -> Iterator[None]:
    """Turn what the OpenAI client and its HTTP library raise into our errors."""
    where = endpoint.url
    try:
        yield
    except (openai.APITimeoutError, httpx2.TimeoutException) as error:
        raise FailedError(f"{where}: no answer within {timeout:g} s", "the server hangs or is too slow: look at its log") from error
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, httpx2.RemoteProtocolError | httpx2.ReadError):
            raise FailedError(f"{where}: the connection broke off in the answer ({cause})", "look at the server's log") from error
        raise NotReadyError(f"{where} cannot be reached ({cause})", "start the server, or check address and port") from error
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise NotReadyError(f"{where} refuses us with {error.status_code}", "set OPENAI_API_KEY to the server's key") from error
    except openai.NotFoundError as error:
        raise NotReadyError(f"{where} knows no model {endpoint.model!r} ({_words(error)})", "ask its /v1/models for the names it serves") from error
    except openai.APIStatusError as error:
        raise FailedError(f"{where} answers {error.status_code}: {_words(error)}", "look at the server's log") from error
    except openai.OpenAIError as error:
        raise FailedError(f"{where}: {_words(error)}", "look at the server's log") from error
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        # The client builds its objects unchecked, so an answer of another shape shows itself as one of these.
        raise FailedError(f"{where} answers what is no chat completion ({error})", "is it an OpenAI-compatible address ending in /v1?") from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _no_completion(endpoint: Endpoint, reply: Any) -> FailedError:
    words = " ".join(str(reply).split())[:120]
    return FailedError(f"{endpoint.url} answers what is no chat completion: {words}", "is it an OpenAI-compatible address ending in /v1?")
