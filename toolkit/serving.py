"""A server's life: a free port, the start, the wait until one token is really answered, and its end with all that it started."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit import process
from toolkit.engines import Endpoint, Target, engine
from toolkit.engines.wire import ask
from toolkit.errors import FailedError, NotReadyError, ThinkshipError, UsageError
from toolkit.health import Health, Question, probe
from toolkit.places import Place, Running

HOST = "127.0.0.1"
HELLO = ({"role": "user", "content": "Say hello."},)


@contextmanager
def serving(name: str, target: Target, place: Place, log: Path, port: int | None = None) -> Iterator[Endpoint]:
    """Serve a target while the block runs and yield its endpoint, which has answered one token.

    NotReadyError where the asked-for port is taken; FailedError with the log's last lines where the server dies or takes too long.
    """
    chosen = pick_port(port)
    server = launched(name, target, place, chosen, log)
    try:
        yield ready(name, target, place, server, chosen)
    finally:
        server.stop()


def launched(name: str, target: Target, place: Place, port: int, log: Path, detached: bool = False) -> Running:
    """Lay out what the server reads and start it."""
    engine(name).lay_out(target, place.tools)
    return place.start(engine(name).launch(target, port, place.tools), target, port, log, detached)


def pick_port(wanted: int | None = None) -> int:
    """Return the wanted port, or any free one, of 127.0.0.1; NotReadyError where the wanted one is taken."""
    with socket.socket() as probe:
        # As servers do, so that a port whose last connection just closed does not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted or 0))
        except OSError as error:
            message = f"port {wanted} of {HOST} cannot be used: {error.strerror}"
            raise NotReadyError(message, "stop what uses it (`thinkship stop` for a server of ours) or choose another with --port") from error
        return int(probe.getsockname()[1])


def ready(name: str, target: Target, place: Place, server: Running, port: int) -> Endpoint:
    """Wait for the start, bring the model in, and wait for one answered token, all within the engine's time; return the endpoint."""
    endpoint = Endpoint(name, f"http://{HOST}:{port}/v1", target.served_name, target.api_key)
    deadline = time.monotonic() + engine(name).startup_seconds
    _wait(server, deadline, lambda: engine(name).alive(endpoint.root))
    beside = engine(name).prepare(target, port, place.tools)
    if beside:
        place.call(server, beside)
    problems: list[ThinkshipError] = []
    try:
        _wait(server, deadline, lambda: _one_token(endpoint, problems))
    except FailedError as error:
        last = f"\nits last answer: {problems[-1].message}" if problems else ""
        raise FailedError(error.message + last, error.remedy) from error
    return endpoint


def _wait(server: Running, deadline: float, done: Callable[[], bool]) -> None:
    while not done():
        if not server.alive():
            end = process.ending(server.code or 0)
            raise FailedError(f"the server ({server.name}) ended with {end} before it was ready\n{server.tail()}", f"see {server.log}")
        if time.monotonic() > deadline:
            raise FailedError(f"the server ({server.name}) was not ready in time\n{server.tail()}", f"see {server.log}")
        time.sleep(0.1)


def _one_token(endpoint: Endpoint, problems: list[ThinkshipError]) -> bool:
    # imported here: the OpenAI client takes longer to import than a health probe may take, and a look at a running server needs it not
    from toolkit.engines.chat import Chat

    try:
        with Chat(endpoint, timeout=60) as chat:
            answer = chat.ask(HELLO, 1)
    except ThinkshipError as error:
        problems.append(error)
        return False
    return bool(answer.completion_tokens or answer.text or answer.reasoning)


def health(url: str, model: str, name: str = "openai", api_key: str | None = None, timeout: float = 5.0) -> Health:
    """Ask for four tokens and say whether the model answers and thinks, within `timeout` seconds; errors as `question`."""
    return probe(question(Endpoint(name, url, model, api_key), timeout))


def question(endpoint: Endpoint, timeout: float = 5.0, max_tokens: int = 4) -> Question:
    """Return what a health probe asks, with reasoning expected where this engine puts it; UsageError for what cannot be asked."""
    try:
        return Question(endpoint.url, endpoint.model, endpoint.api_key, timeout, max_tokens, fields=engine(endpoint.engine).fields)
    except ValueError as error:
        raise UsageError(str(error), "`thinkship health --help` says what is wanted") from error


def detect(url: str, api_key: str | None = None, timeout: float = 10.0) -> str:
    """Say which engine answers at an address, by what its list of models tells; `openai` where that is not known.

    NotReadyError where nothing answers within `timeout` seconds, or we are refused.
    """
    root = url.rstrip("/").removesuffix("/v1")
    try:
        listed = ask(f"{root}/v1/models", timeout=timeout, key=api_key)
    except FailedError:  # transformers answers 500 to this where the machine has no hub cache; the first question tells what is wrong
        return "openai"
    owners = {str(model.get("owned_by")) for model in listed.get("data") or () if isinstance(model, dict)} if isinstance(listed, dict) else set()
    known = {"vllm": "vllm", "llamacpp": "llamacpp", "library": "ollama"}
    return next((known[owner] for owner in sorted(owners) if owner in known), "openai")
