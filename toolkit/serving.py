"""A server's life: a free port, the start, the wait until one token is really answered, and its end with all that it started."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit import process
from toolkit.engines import NAMES, Endpoint, Target, Tools, engine
from toolkit.engines.chat import Chat
from toolkit.engines.wire import ask
from toolkit.errors import FailedError, NotReadyError, ThinkshipError
from toolkit.process import Process

HOST = "127.0.0.1"
HELLO = ({"role": "user", "content": "Say hello."},)


@dataclass(frozen=True)
class Health:
    """Whether an endpoint answers, whether it reasons while doing so, and how long that took."""

    answers: bool
    thinks: bool
    seconds: float
    message: str = ""


@contextmanager
def serving(name: str, target: Target, tools: Tools, log: Path, port: int | None = None) -> Iterator[Endpoint]:
    """Serve a target while the block runs and yield its endpoint, which has answered one token.

    NotReadyError where the asked-for port is taken; FailedError with the log's last lines where the server dies or takes too long.
    """
    chosen = pick_port(port)
    engine(name).lay_out(target, tools)
    with process.start(engine(name).launch(target, chosen, tools), log=log) as server:
        yield _ready(name, target, tools, server, chosen)


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


def _ready(name: str, target: Target, tools: Tools, server: Process, port: int) -> Endpoint:
    """Wait for the start, bring the model in, and wait for one answered token, all within the engine's time."""
    endpoint = Endpoint(name, f"http://{HOST}:{port}/v1", target.served_name)
    deadline = time.monotonic() + engine(name).startup_seconds
    _wait(server, deadline, lambda: engine(name).alive(endpoint.root))
    engine(name).prepare(endpoint, target, tools)
    problems: list[ThinkshipError] = []
    try:
        _wait(server, deadline, lambda: _one_token(endpoint, problems))
    except FailedError as error:
        last = f"\nits last answer: {problems[-1].message}" if problems else ""
        raise FailedError(error.message + last, error.remedy) from error
    return endpoint


def _wait(server: Process, deadline: float, ready: Callable[[], bool]) -> None:
    while not ready():
        name = server.command.argv[0].rpartition("/")[2]
        if not server.alive():
            raise FailedError(f"the server ({name}) ended with exit code {server.code} before it was ready\n{server.tail()}", f"see {server.log}")
        if time.monotonic() > deadline:
            raise FailedError(f"the server ({name}) was not ready in time\n{server.tail()}", f"see {server.log}")
        time.sleep(0.1)


def _one_token(endpoint: Endpoint, problems: list[ThinkshipError]) -> bool:
    try:
        answer = Chat(endpoint, timeout=60).ask(HELLO, 1)
    except ThinkshipError as error:
        problems.append(error)
        return False
    return bool(answer.completion_tokens or answer.text or answer.reasoning)


def health(url: str, model: str, name: str = "openai", api_key: str | None = None, timeout: float = 5.0) -> Health:
    """Ask for four tokens and say whether the model answers and has begun to reason."""
    began = time.monotonic()
    try:
        answer = Chat(Endpoint(name, url, model, api_key), timeout=timeout).ask(HELLO, 4)
    except ThinkshipError as error:
        return Health(False, False, time.monotonic() - began, error.message)
    seconds = time.monotonic() - began
    if answer.reasoning.strip():
        return Health(True, True, seconds, "answers and reasons")
    return Health(bool(answer.completion_tokens or answer.text), False, seconds, "answers without reasoning")


def detect(url: str, api_key: str | None = None) -> str:
    """Say which engine answers at an address, by what its list of models tells; `openai` where that is not known.

    NotReadyError where nothing answers.
    """
    root = url.rstrip("/").removesuffix("/v1")
    try:
        listed = ask(f"{root}/v1/models", key=api_key)
    except FailedError:  # transformers answers 500 to this where the machine has no hub cache; the first question tells what is wrong
        return "openai"
    owners = {str(model.get("owned_by")) for model in listed.get("data") or () if isinstance(model, dict)} if isinstance(listed, dict) else set()
    known = {"vllm": "vllm", "llamacpp": "llamacpp", "library": "ollama"}
    return next((known[owner] for owner in sorted(owners) if owner in known), "openai")


class Server(BaseModel):
    """A server in the background: what `stop` needs to end it and nothing else."""

    model_config = ConfigDict(frozen=True)
    engine: str
    url: str
    model: str
    pid: int
    started: int
    """The kernel's start time of the process, in clock ticks since boot: a recycled process id has another one."""
    log: Path

    def alive(self) -> bool:
        """Say whether this very process still runs."""
        return _started(self.pid) == self.started

    @property
    def endpoint(self) -> Endpoint:
        """Its address."""
        return Endpoint(self.engine, self.url, self.model)


def start_background(name: str, target: Target, tools: Tools, folder: Path, port: int | None = None) -> Server:
    """Start a server that outlives us, wait until it answers, and keep its state in `folder`/<engine>.json; errors as `serving`."""
    old = read_state(folder / f"{name}.json")
    if old:
        raise NotReadyError(f"{name} is being served already, at {old.url}", "`thinkship stop` ends it")
    chosen = pick_port(port)
    engine(name).lay_out(target, tools)
    log = folder / f"{name}.log"
    log.unlink(missing_ok=True)
    running = process.start(engine(name).launch(target, chosen, tools), log=log, detached=True)
    try:
        endpoint = _ready(name, target, tools, running, chosen)
        server = Server(engine=name, url=endpoint.url, model=endpoint.model, pid=running.pid, started=_started(running.pid) or 0, log=log)
        draft = folder / f".{name}.json"
        draft.write_text(server.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(draft, folder / f"{name}.json")
    except BaseException:
        running.stop()
        raise
    return server


def running(folder: Path) -> tuple[Server, ...]:
    """Return the servers of ours that still run."""
    return tuple(server for name in NAMES if (server := read_state(folder / f"{name}.json")))


def stop(folder: Path, grace: float = 15.0) -> tuple[Server, ...]:
    """Stop every server of ours and return them; a process that only inherited a number is left alone."""
    stopped = running(folder)
    for server in stopped:
        process.stop_group(server.pid, grace, server.alive)
    for name in NAMES:
        (folder / f"{name}.json").unlink(missing_ok=True)
    return stopped


def read_state(path: Path) -> Server | None:
    """Return the server of a state file, None where there is none, it is unreadable, or its process is gone."""
    try:
        server = Server.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return server if server.alive() else None


def _started(pid: int) -> int | None:
    """Return the start time of a process that is no zombie (proc(5), field 22 of stat; the name in field 2 may hold spaces)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
