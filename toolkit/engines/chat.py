"""One conversation with an endpoint through the OpenAI client, whole or streamed; every failure of the client's becomes one of ours here."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from toolkit.engines import Answer, Endpoint, Message, engine
from toolkit.engines.connection import client
from toolkit.engines.failures import LOG, no_completion, translated
from toolkit.engines.reading import FIELDS
from toolkit.engines.wire import patience
from toolkit.errors import FailedError
from toolkit.recipe import Think

Sent = TypeVar("Sent")


@dataclass(frozen=True)
class Scored:
    """A token of a given text as a model finds it."""

    text: str
    logprob: float | None
    """Natural log-probability after all that stands before it; the first has none."""
    best: str
    """The token that the model finds likeliest there."""


@dataclass
class _Growth:
    """What has come of a streamed answer."""

    message: dict[str, str] = field(default_factory=dict)
    deltas: list[str] = field(default_factory=list)
    finish: str | None = None
    usage: Any = None
    chunks: int = 0

    def add(self, chunk: ChatCompletionChunk) -> None:
        """Add a chunk's pieces."""
        self.chunks, self.usage = self.chunks + 1, getattr(chunk, "usage", None) or self.usage
        if not getattr(chunk, "choices", None):
            return
        choice = chunk.choices[0]
        for name in ("content", *FIELDS):
            piece = getattr(choice.delta, name, None)
            if piece:
                self.message[name] = self.message.get(name, "") + piece
                self.deltas.append(piece)
        self.finish = choice.finish_reason or self.finish


@dataclass(frozen=True)
class Chat:
    """A client of one endpoint, whose connections end with its block; `timeout` bounds the seconds of one answer, whole or streamed."""

    endpoint: Endpoint
    think: Think = field(default_factory=Think)
    timeout: float = 120.0
    patient: bool = True
    """Whether a short time that a busy server asks for is waited for here."""

    @cached_property
    def _client(self) -> openai.OpenAI:
        http = client(self.endpoint.url, self.timeout)
        return openai.OpenAI(base_url=self.endpoint.url, api_key=self.endpoint.api_key or "none", max_retries=0, http_client=http)

    def __enter__(self) -> Chat:
        with translated(self.endpoint, self.timeout):
            assert self._client.chat.completions  # both made at their first use: here they take neither the first answer's time nor its turn
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, messages: Sequence[Message], max_tokens: int | None, **options: Any) -> Answer:
        """Return the answer to a conversation, greedy unless the options say otherwise; without `max_tokens` the server sets its own limit.

        NotReadyError where the endpoint is not there or does not let us in, FailedError where it answers what is no chat completion.
        """
        began = time.monotonic()
        with translated(self.endpoint, self.timeout):
            request = self._request(messages, max_tokens, options)
            reply = self._sent(lambda: self._client.chat.completions.create(**request))
            if not isinstance(reply, ChatCompletion) or not reply.choices or reply.choices[0].message is None:
                raise no_completion(self.endpoint, reply)
            choice = reply.choices[0]
            message = {name: getattr(choice.message, name, None) for name in ("content", *FIELDS)}
            answer = self._answer(message, choice.finish_reason, reply.usage)
        return replace(answer, seconds=time.monotonic() - began)

    def draw(self, messages: Sequence[Message], max_tokens: int, seed: int, fields: Mapping[str, Any]) -> Answer:
        """Return an answer that is sampled from a seed, with the server's own parameters but for `fields` of the request; errors as `ask`."""
        return self.ask(messages, max_tokens, temperature=openai.omit, seed=seed, extra_body=dict(fields))

    def tokens(self, messages: Sequence[Message], max_tokens: int) -> tuple[tuple[str, float], ...]:
        """Return the greedy answer as pairs of a token's text and its natural log-probability, none where the server tells none; errors as `ask`."""
        with translated(self.endpoint, self.timeout):
            reply = patiently(lambda: self._client.chat.completions.create(**self._request(messages, max_tokens, {"logprobs": True})))
            if not isinstance(reply, ChatCompletion) or not reply.choices:
                raise no_completion(self.endpoint, reply)
            told = reply.choices[0].logprobs
            return tuple((token.token, token.logprob) for token in (told.content if told else None) or ())

    def stream(self, messages: Sequence[Message], max_tokens: int | None, **options: Any) -> Answer:
        """Return the answer put together from its stream; errors as `live`."""
        began, growth = time.monotonic(), _Growth()
        with translated(self.endpoint, self.timeout), self._streamed(messages, {"max_tokens": max_tokens, **options}) as chunks:
            for chunk in chunks:
                growth.add(chunk)
            return self._whole(growth, began)

    def live(self, messages: Sequence[Message], max_tokens: int | None, **options: Any) -> Generator[Answer, None, None]:
        """Yield the answer as far as it has come, with each piece anew, at last whole; to close it is to hang up.

        FailedError where the stream breaks off or ends without a finish reason, others as `ask`.
        """
        began, growth = time.monotonic(), _Growth()
        with translated(self.endpoint, self.timeout), self._streamed(messages, {"max_tokens": max_tokens, **options}) as chunks:
            for chunk in chunks:
                growth.add(chunk)
                yield replace(self._answer(growth.message, None, growth.usage), seconds=time.monotonic() - began)
            answer = self._whole(growth, began)
        yield answer

    def _whole(self, growth: _Growth, began: float) -> Answer:
        if not growth.finish:
            words = f"after {growth.chunks} chunks" if growth.chunks else "without one chunk"
            raise FailedError(f"{self.endpoint.url}: the stream ended {words} and gave no finish reason", LOG)
        answer = self._answer(growth.message, growth.finish, growth.usage)
        return replace(answer, seconds=time.monotonic() - began, deltas=tuple(growth.deltas))

    def abandon(self, messages: Sequence[Message], chunks: int, extra: dict[str, Any]) -> int:
        """Begin a stream as long as the server lets it be, hang up after some chunks, and return how many came; errors as `ask`.

        `extra` are fields of the request that the OpenAI client does not know.
        """
        seen = 0
        with translated(self.endpoint, self.timeout), self._streamed(messages, {"max_tokens": openai.omit, "extra_body": extra}) as stream:
            for _ in stream:
                seen += 1
                if seen == chunks:
                    break
        return seen

    def complete(self, prompt: str, max_tokens: int) -> tuple[str, int | None]:
        """Continue a text greedily and return the continuation with the number of prompt tokens; errors as `ask`."""
        asked: dict[str, Any] = {"model": self.endpoint.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        with translated(self.endpoint, self.timeout):
            reply = patiently(lambda: self._client.completions.create(**asked))
            if not getattr(reply, "choices", None):
                raise no_completion(self.endpoint, reply)
            return reply.choices[0].text, reply.usage.prompt_tokens if reply.usage else None

    def scored(self, text: str) -> tuple[Scored, ...]:
        """Return how likely the server finds each token of a text, none where it does not score what it is given; errors as `ask`."""
        asked: dict[str, Any] = {"model": self.endpoint.model, "prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        with translated(self.endpoint, self.timeout):
            reply = patiently(lambda: self._client.completions.create(**asked))
            told = reply.choices[0].logprobs if getattr(reply, "choices", None) else None
        if told is None or not told.tokens or not told.token_logprobs or not told.top_logprobs:
            return ()
        rows = zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=False)
        return tuple(Scored(token, value, max(top, key=top.__getitem__) if top else token) for token, value, top in rows)

    def _streamed(self, messages: Sequence[Message], options: dict[str, Any]) -> openai.Stream[ChatCompletionChunk]:
        request = self._request(messages, options.pop("max_tokens"), options)
        return self._sent(lambda: self._client.chat.completions.create(**request, stream=True))

    def _sent(self, call: Callable[[], Sent]) -> Sent:
        return patiently(call) if self.patient else call()

    def _request(self, messages: Sequence[Message], max_tokens: int | None, options: dict[str, Any]) -> dict[str, Any]:
        most = openai.omit if max_tokens is None else max_tokens
        extra = {**self.endpoint.extra, **options.get("extra_body", {})}
        told = {**options, **({"extra_body": extra} if extra else {})}
        return {"model": self.endpoint.model, "messages": list(messages), "max_tokens": most, "temperature": 0, **told}

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


def patiently(call: Callable[[], Sent]) -> Sent:
    """Send a request, and once more where the server answers 429 and names a short time to wait."""
    try:
        return call()
    except openai.RateLimitError as error:
        wait = patience(error.response.headers.get("retry-after"))
        if wait is None:
            raise
        time.sleep(wait)
        return call()
