"""The proxy of a deployment, for real, before two servers of ten lines: shares are dealt, and a change of the route ends no answer."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from conftest import FIGURES, Host, run
from released_store import COMMITS, DEMO, verify

from toolkit.deployment.acts import Write
from toolkit.deployment.compose import NOBODY, Compose, share, whole
from toolkit.deployment.performing import Real
from toolkit.deployment.state import Deployed, Ledger
from toolkit.release.making import cut

SERVER = """
import http.server, os, time
seen = {"hung up": 0}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        slow = self.path in ("/v1/slow", "/v1/lines")
        self.send_response(200)
        self.send_header("X-Place", os.environ["PLACE"])
        self.send_header("Content-Type", {"/v1/slow": "text/event-stream", "/v1/lines": "application/x-ndjson"}.get(self.path, "text/plain"))
        self.end_headers()
        try:
            for number in range(30 if slow else 1):
                self.wfile.write(f"data: {number} {seen}\\n\\n".encode())
                self.wfile.flush()
                time.sleep(0.1 if slow else 0)
        except OSError:
            seen["hung up"] += 1
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


class Door:
    """The proxy with its two places, and clients before it."""

    def __init__(self, host: Host, goal: Compose, hands: Real, blue: Deployed, green: Deployed) -> None:
        self.host, self.goal, self.hands, self.blue, self.green = host, goal, hands, blue, green
        self.trust: ssl.SSLContext | None = None

    def take(self, route: str) -> None:
        """Change the route."""
        for act in self.goal._routed("a route", route, self.blue):
            self.hands.do(act)

    def server(self, slot: str) -> str:
        """Start a server in a place and return its container."""
        flags = ("--network", f"thinkship-{self.host.name}_default", "--network-alias", slot, "--env", f"PLACE={slot}")
        label = ("--label", f"com.docker.compose.project=thinkship-{self.host.name}-{slot}")
        command = ("--entrypoint", "python", self.host.env["CADDY_IMAGE"], "-c", SERVER)
        return run("docker", "run", "--detach", "--init", *flags, *label, *command).stdout.strip()

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("localhost", self.host.port, timeout=20, context=self.trust)

    def ask(self, path: str = "/v1/models", key: str = "") -> tuple[int, str, str]:
        """Return status, place and text of one answer."""
        with_key = {"Authorization": f"Bearer {key or self.host.key}"}
        client = self.connect()
        client.request("GET", path, headers=with_key)
        reply = client.getresponse()
        text = reply.read().decode()
        client.close()
        return reply.status, reply.headers.get("X-Place", ""), text

    def ask_when_up(self) -> None:
        end = time.monotonic() + 20
        while self.ask()[0] != 200:
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.fixture
def door(place: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    release = cut(DEMO, verify(DEMO, tmp_path / "store"), COMMITS)
    ledger = Ledger(tmp_path / "store", place.name)
    goal = Compose(place.name, ledger.store, ledger.folder)
    blue = goal.placed(Deployed(release=release, engine="llamacpp"), None)
    with ledger.locked():
        made = Door(place, goal, Real(ledger), blue, goal.placed(blue, blue))
        made.hands.do(Write("x", ledger.folder / "route", NOBODY))
        made.hands.do(goal._door(blue))
        made.trust = ssl.create_default_context(cafile=place.authority(tmp_path))
        yield made


def counted(door: Door, number: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(number):
        status, place, _text = door.ask()
        assert status == 200
        found[place] += 1
    return found


def test_the_door_deals_shares_waits_for_nobody_and_ends_no_answer(door: Door) -> None:
    assert door.ask()[0] == 503, "nobody is promoted yet"
    assert door.ask(key="wrong")[0] == 401
    door.server("blue")
    door.take(whole(door.blue))
    door.ask_when_up()
    assert counted(door, 10) == {"blue": 10}

    green = door.server("green")
    door.take(share(door.blue, door.green, 10))
    found = counted(door, 400)
    assert set(found) == {"blue", "green"} and 14 <= found["green"] <= 74, found  # 40, and 5.6 times the deviation of chance

    run("docker", "kill", green)
    assert counted(door, 20) == {"blue": 20}, "who would have asked the dead one asks the other"
    door.take(whole(door.blue))

    answers: list[tuple[int, str, str]] = []
    slow = [threading.Thread(target=lambda: answers.append(door.ask("/v1/slow"))) for _ in range(4)]
    for thread in slow:
        thread.start()
    time.sleep(0.8)
    run("docker", "start", green)
    door.take(whole(door.green))
    door.ask_when_up()
    assert counted(door, 5) == {"green": 5}
    for thread in slow:
        thread.join()
    assert [(status, place, text.count("data:")) for status, place, text in answers] == [(200, "blue", 30)] * 4


def test_streamed_pieces_are_passed_on_at_once(door: Door) -> None:
    """OpenAI's event streams and Ollama's lines, though no `flush_interval` is set."""
    door.server("blue")
    for route in (whole(door.blue), share(door.blue, door.blue, 50)):
        door.take(route)
        door.ask_when_up()
        for path in ("/v1/slow", "/v1/lines"):
            client = door.connect()
            client.request("GET", path, headers={"Authorization": f"Bearer {door.host.key}"})
            reply, began, came = client.getresponse(), time.monotonic(), list[float]()
            while reply.read1(65536):
                came.append(time.monotonic() - began)
            client.close()
            assert came[0] < 0.5 and came[-1] > 2.5 and len(came) >= 25, (route, path, came)


def test_a_client_that_hangs_up_gives_its_place_back(door: Door) -> None:
    door.server("blue")
    door.take(whole(door.blue))
    door.ask_when_up()
    client = door.connect()
    client.request("GET", "/v1/slow", headers={"Authorization": f"Bearer {door.host.key}"})
    assert client.getresponse().read(10)
    client.close()
    waited(lambda: "'hung up': 1" in door.ask()[2], "the engine is told that its client is gone")


def test_clients_that_keep_their_connections_lose_nothing_when_the_route_changes(door: Door) -> None:
    for slot in ("blue", "green"):
        door.server(slot)
    door.take(whole(door.blue))
    door.ask_when_up()
    assert door.trust
    stop, failed, done, trust = threading.Event(), list[str](), list[int](), door.trust

    def ask_on() -> None:
        """Ask again and again as OpenAI's library does: it looks whether a kept connection is still there before it asks on it."""
        with httpx2.Client(verify=trust, trust_env=False, headers={"Authorization": f"Bearer {door.host.key}"}) as client:
            while not stop.is_set():
                try:
                    done.append(client.get(f"{door.host.url}/models").raise_for_status().status_code)
                except httpx2.HTTPError as error:
                    failed.append(f"{type(error).__name__}: {error}")
                time.sleep(0.02)

    threads = [threading.Thread(target=ask_on) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(5):
        door.take(whole(door.green if number % 2 else door.blue))
    stop.set()
    for thread in threads:
        thread.join()
    FIGURES.append(f"the route changed five times: {len(done)} requests of 8 clients that keep their connections, {len(failed)} failed")
    assert len(done) > 200 and not failed, failed[:5]


def waited(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.2)
