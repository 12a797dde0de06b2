"""What an operator's monitor asks of an endpoint: is the model well now (`health`), and does it stay so (`watch`)."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NoReturn

from toolkit import console, metrics, servers, serving
from toolkit.engines import Endpoint
from toolkit.errors import BrokenError, NotReadyError, ThinkshipError, UsageError
from toolkit.health import NAGIOS, Health, Question, probe, read_key
from toolkit.watch import Seen, Watch, until_told

Shape = Literal["text", "json", "nagios"]


@dataclass(frozen=True)
class Whom:
    """The endpoint that a command line names, an address or the server of ours that runs, and how it is asked."""

    url: str | None
    model: str | None
    api_key_file: Path | None
    timeout: float
    """Seconds that one probe may take, all in all."""
    max_tokens: int
    store: Path

    def question(self) -> Question:
        """Return what to ask; NotReadyError where no address is given and no server runs, UsageError for what cannot be asked."""
        return serving.question(self._endpoint(), self.timeout, self.max_tokens)

    def _endpoint(self) -> Endpoint:
        if self.url:
            return Endpoint("openai", self.url.rstrip("/"), self.model or "", _key(self.api_key_file))
        return servers.first(servers.folder_of(self.store)).endpoint


@dataclass(frozen=True)
class Rounds:
    """How `watch` goes on: a probe every so many seconds, and the address of its metrics."""

    every: float
    bind: str
    port: int


def health(whom: Whom, shape: Shape = "text", warn: float | None = None) -> None:
    """Print whether an endpoint answers and thinks; NotReadyError where it does not answer, BrokenError where it does not think.

    In Nagios' shape the program ends here with the code that Nagios reads.
    """
    if shape == "nagios":
        _nagios(whom, warn)
    asked = whom.question()
    found = probe(asked)
    if shape == "json":
        console.emit_json({"url": asked.url, **asdict(found)})
    else:
        console.say(found.line(asked.url))
    _judge(asked, found)


def _nagios(whom: Whom, warn: float | None) -> NoReturn:
    try:
        asked = whom.question()
        line, code = probe(asked).nagios(asked.url, warn)
    except ThinkshipError as error:
        line, code = f"THINKSHIP UNKNOWN - {error.message}", NAGIOS.index("UNKNOWN")
    console.say(line)
    sys.exit(code)


def watch(whom: Whom, rounds: Rounds) -> None:
    """Probe an endpoint until SIGINT or SIGTERM, say what changes, and serve the metrics; NotReadyError where their port cannot be used."""
    asked = whom.question()
    watching = Watch(lambda: probe(asked))
    with until_told(), metrics.exporting(rounds.bind, rounds.port, lambda: metrics.text(watching.seen, _labels(asked))) as page:
        console.say(f"watching {asked.url} every {rounds.every:g} s; metrics at {page}; Ctrl-C ends it")
        watching.forever(rounds.every)
    console.say(f"watched {asked.url}: {', '.join(f'{count} {outcome}' for outcome, count in watching.seen.counts.items())}")


def watch_once(whom: Whom) -> None:
    """Probe once and print the metrics; errors as `health`."""
    asked = whom.question()
    found = probe(asked)
    console.say(metrics.text(Seen().after(found, time.time()), _labels(asked)).rstrip())
    _judge(asked, found)


def _key(file: Path | None) -> str | None:
    try:
        return read_key(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"the API key cannot be read: {error}", "name a file that holds the key in one line") from error


def _labels(asked: Question) -> dict[str, str]:
    return {"endpoint": asked.url} | ({"model": asked.model} if asked.model else {})


def _judge(asked: Question, found: Health) -> None:
    if not found.answers:
        raise NotReadyError(f"{asked.url} does not answer: {found.message}", "start it (`make serve-llamacpp`), or look at its log")
    if not found.thinks:
        raise BrokenError(f"{found.model} answers without reasoning", "`thinkship verify --url …` says why")
