"""One short question to an OpenAI-compatible endpoint, which tells whether the model answers, whether it thinks, and how fast.

This file needs Python's standard library alone and nothing else of this package, so that it can be copied to any monitor and run there:
`python health.py --url http://host:8000/v1`. It does not say whether answers are right, as `thinkship verify` does. No proxy is used.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

FIELDS = ("reasoning", "reasoning_content", "thinking")
"""Where servers put the reasoning, as toolkit/engines/reading.py has it; a test holds the two equal."""
OPEN, CLOSE = "<think>", "</think>"
BODY = 1 << 20  # bytes that an answer of a few tokens stays below
NAGIOS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")  # states by exit code: https://nagios-plugins.org/doc/guidelines.html


@dataclass(frozen=True)
class Question:
    """Whom to ask, by an address like http://host:8000/v1, and how; ValueError for what cannot be asked."""

    url: str
    model: str = ""
    """Served name; the first that the endpoint lists where it is empty."""
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 5.0
    """Seconds that everything together may take, name look-up and the last byte included."""
    max_tokens: int = 4
    """Enough to see that the model has begun to think, few enough for a second on a CPU."""
    stream: bool = True
    """Without a stream there is no first-token time."""
    fields: tuple[str, ...] = FIELDS
    """Fields in which reasoning counts."""

    def __post_init__(self) -> None:
        parts, key = self.parts, self.api_key
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query or parts.port == 0:
            raise ValueError("the address must look like http://host:8000/v1, with no user's name or password in it")
        if key is not None and not (key.isascii() and key.isprintable() and len(key.split()) == 1):
            raise ValueError("the API key must be one word of ASCII characters")
        if not 0 < self.timeout <= 3600 or self.max_tokens < 1:
            raise ValueError("the timeout must be more than 0 and at most 3600 seconds, and the answer have at least one token")

    @property
    def parts(self) -> SplitResult:
        """The address in its parts."""
        return urlsplit(self.url)


@dataclass(frozen=True)
class Health:
    """Whether an endpoint answers, whether it thinks while doing so, and how long that took."""

    answers: bool
    thinks: bool
    seconds: float
    message: str = ""
    model: str = ""
    first_token_seconds: float | None = None
    """None where nothing came, or the answer came whole."""
    reasoning_characters: int = 0
    where: str | None = None
    """Field that held the reasoning, `inline` for tags in the content."""

    @property
    def code(self) -> int:
        """0, 4 where the model does not answer, 6 where it answers without thinking, as toolkit/errors.py has them."""
        return 4 if not self.answers else 6 if not self.thinks else 0

    def line(self, url: str) -> str:
        """Return what was seen in one line for a person."""
        first = "" if self.first_token_seconds is None else f", first token after {self.first_token_seconds:.2f} s"
        return f"{self.model or 'the model'} at {url}: {self.message} ({self.seconds:.2f} s{first})"

    def nagios(self, url: str, warn: float | None = None) -> tuple[str, int]:
        """Return the line with performance data and the exit code that Nagios reads; slower than `warn` seconds is a WARNING."""
        state = 2 if self.code else 1 if warn is not None and self.seconds > warn else 0
        first = "" if self.first_token_seconds is None else f" first_token={self.first_token_seconds:.3f}s;;;0"
        data = f"time={self.seconds:.3f}s;{'' if warn is None else f'{warn:g}'};;0{first} thinking={self.reasoning_characters};;;0"
        return f"THINKSHIP {NAGIOS[state]} - {self.line(url).replace('|', '/')}|{data}", state


class _FailedError(Exception):
    """Why there is no answer, in words for a person."""


def probe(question: Question) -> Health:
    """Ask once and return what was seen within the question's time; a failure is told in the message and raises nothing."""
    asking = _Asking(question)
    asking.start()
    asking.join(question.timeout)
    problem = asking.cut() if asking.is_alive() else asking.problem
    seconds = round(time.monotonic() - asking.began, 3)
    if problem:
        return Health(False, False, seconds, _short(problem.replace(question.api_key or "\0", "***"), 400), asking.model)
    reasoning, text, where = take_apart(asking.message, question.fields)
    thinks, answers = bool(reasoning.strip()), bool(reasoning or text or asking.counted)
    words = "answers and thinks" if thinks else "answers without thinking" if answers else "ends its answer without a token"
    return Health(answers, thinks, seconds, words, asking.model, asking.first_token, len(reasoning.strip()), where if thinks else None)


def take_apart(message: Mapping[str, Any], fields: tuple[str, ...] = FIELDS) -> tuple[str, str, str | None]:
    """Split a message into its reasoning, its text and the place of the reasoning, by the rules of toolkit/engines/reading.py."""
    content = str(message.get("content") or "")
    for name in fields:
        if message.get(name):
            return str(message[name]), content, name
    head, tag, tail = content.partition(CLOSE)
    if tag or head.lstrip().startswith(OPEN):
        return head.lstrip().removeprefix(OPEN), tail, "inline"
    return "", content, None


class _Asking(threading.Thread):
    """The exchange, in a thread of its own: a name look-up or a server that drips bytes can be left behind when the time is over."""

    def __init__(self, question: Question) -> None:
        super().__init__(daemon=True)
        self.question, self.model, self.began = question, question.model, time.monotonic()
        self.message: Any = {}
        self.counted, self.problem, self.state = False, "", "it cannot be reached"
        self.first_token: float | None = None
        kind = http.client.HTTPSConnection if question.parts.scheme == "https" else http.client.HTTPConnection
        self.connection = kind(str(question.parts.hostname), question.parts.port, timeout=question.timeout)
        self.socket: socket.socket | None = None

    def run(self) -> None:
        """Ask, and keep either the message or the problem."""
        try:
            if not self.model:
                with self._send("/models") as reply:
                    self.model = _first_model(_parsed(self._text(reply.read(BODY))))
            body = {"model": self.model, "messages": [{"role": "user", "content": "Say hello."}]}
            options = {"max_tokens": self.question.max_tokens, "temperature": 0, "stream": self.question.stream}
            with self._send("/chat/completions", {**body, **options}) as reply:
                self._receive(reply)
        except _FailedError as error:
            self.problem = str(error)
        except TimeoutError:
            self.problem = self._late()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.problem = f"the connection broke off ({error})" if self.socket else f"it cannot be reached ({error})"
        finally:
            self.connection.close()

    def cut(self) -> str:
        """End the exchange, wherever it is, and return why."""
        if self.socket:
            with contextlib.suppress(OSError):  # it may have ended by itself
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)  # wakes a thread that waits for bytes, as closing does not
        return self._late()

    def _late(self) -> str:
        return f"no whole answer within {self.question.timeout:g} s: {self.state}"

    def _send(self, path: str, body: Mapping[str, Any] | None = None) -> http.client.HTTPResponse:
        if self.connection.sock is None:
            self.connection.connect()
            self.socket = self.connection.sock
        self.state = "it takes the connection and sends nothing"
        key = self.question.api_key
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        target, text = self.question.parts.path.rstrip("/") + path, json.dumps(body) if body else None
        self.connection.request("POST" if body else "GET", target, text, headers)
        reply = self.connection.getresponse()
        self.state = "its answer begins and does not end"
        if reply.status != http.client.OK:
            with reply:
                raise _FailedError(_refusal(reply, self._text(reply.read(BODY)), self.model))
        return reply

    def _text(self, data: bytes) -> str:
        """Return what the server sends without our key: some repeat it in what they say about it."""
        return data.decode("utf-8", "replace").replace(self.question.api_key or "\0", "***")

    def _receive(self, reply: http.client.HTTPResponse) -> None:
        """Take the message from a stream, or whole from a server that does not stream."""
        if "event-stream" in (reply.getheader("Content-Type") or ""):
            return self._gather(reply)
        found = _parsed(self._text(reply.read(BODY)))
        self.message, usage = _choice(found).get("message"), found.get("usage")
        if not isinstance(self.message, dict):
            raise _FailedError(f"it answers what is no chat completion: {_short(json.dumps(found))}")
        self.counted = isinstance(usage, dict) and bool(usage.get("completion_tokens"))

    def _gather(self, reply: http.client.HTTPResponse) -> None:
        """Put the message together from server-sent events (WHATWG HTML, 9.2); each holds one line of data here."""
        room = BODY
        while room > 0 and (line := reply.readline(BODY)):
            room -= len(line)
            name, _, value = self._text(line).strip().partition(":")
            if name == "data" and (value.strip() == "[DONE]" or self._take(value)):
                return
        raise _FailedError("its stream breaks off" if room > 0 else "its stream is far too long for a few tokens")

    def _take(self, event: str) -> bool:
        """Add one event of the stream to the message and say whether it is the last."""
        choice = _choice(_parsed(event))
        delta: Any = choice.get("delta")
        for name in ("content", *FIELDS) if isinstance(delta, dict) else ():
            if piece := delta.get(name):
                self.message[name] = self.message.get(name, "") + str(piece)
                self.first_token = self.first_token or round(time.monotonic() - self.began, 3)
        self.counted = choice.get("finish_reason") == "length"  # tokens were made, even where a parser kept them back
        return bool(choice.get("finish_reason"))


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _FailedError(f"it answers what is no JSON: {_short(text)}") from error
    if not isinstance(found, dict) or found.get("error"):
        raise _FailedError(f"it answers {'an error' if isinstance(found, dict) else 'what is no chat completion'}: {_short(text)}")
    return found


def _choice(found: Mapping[str, Any]) -> dict[str, Any]:
    choices = found.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _first_model(listed: Mapping[str, Any]) -> str:
    try:
        return _short(str(listed["data"][0]["id"]))
    except (LookupError, TypeError) as error:
        raise _FailedError("it lists no model: name one with --model") from error


def _refusal(reply: http.client.HTTPResponse, text: str, model: str) -> str:
    """Say in words why an answer is not 200."""
    status, text = reply.status, _short(text)
    if status in (401, 403):
        return f"it refuses us with {status}: is the API key right?"
    if status == 404:
        return f"it answers 404: {f'it knows no model {model!r}, or ' if model else ''}its address should end in /v1 ({text})"
    if status == 429:
        return f"it answers 429, too busy, and asks to come again in {_short(reply.getheader('Retry-After') or 'a few')} s"
    return f"it answers {status}: {text or _short(reply.getheader('Location') or reply.reason)}"


def _short(text: str, limit: int = 160) -> str:
    """Return the beginning of a text as one line without what could steer a terminal."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text[: 4 * limit]).split())[:limit]


def read_key(file: Path | None) -> str | None:
    """Return the key in a file, or OPENAI_API_KEY where none is named; OSError or ValueError where it cannot be read."""
    return file.read_text(encoding="utf-8").strip() if file else os.environ.get("OPENAI_API_KEY") or None


class _Parser(argparse.ArgumentParser):
    """Says in Nagios' way what is wrong with the command line where Nagios reads it."""

    def error(self, message: str) -> NoReturn:
        if "--nagios" not in sys.argv:
            super().error(message)
        sys.stdout.write(f"THINKSHIP UNKNOWN - {message}\n")
        sys.exit(NAGIOS.index("UNKNOWN"))


def main() -> int:
    """Probe as the command line says, print one line and return the exit code."""
    parser = _Parser(prog="health", description=__doc__, allow_abbrev=False)
    parser.add_argument("--url", required=True, help="endpoint, as http://host:8000/v1")
    parser.add_argument("--model", default="", help="served name; the endpoint's first if not given")
    parser.add_argument("--api-key-file", type=Path, help="file with the API key; OPENAI_API_KEY if not given")
    parser.add_argument("--timeout", type=float, default=Question.timeout, help="seconds for everything together (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=Question.max_tokens, help="tokens of the answer (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="ask without a stream")
    parser.add_argument("--warn", type=float, help="seconds after which --nagios says WARNING")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print for programs")
    shape.add_argument("--nagios", action="store_true", help="print and end as a Nagios plugin")
    given = parser.parse_args()
    try:
        question = Question(given.url, given.model, read_key(given.api_key_file), given.timeout, given.max_tokens, not given.whole)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    found = probe(question)
    line, code = found.nagios(given.url, given.warn) if given.nagios else (found.line(given.url), found.code)
    sys.stdout.write(f"{json.dumps({'url': given.url, **asdict(found)}) if given.json else line}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
