"""TLS with a certificate that is made for the test: not trusted, it is named with its remedy; trusted by SSL_CERT_FILE, it serves."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import completion, listening, send
from skips import skip_or_fail
from terminal import thinkship

from toolkit.engines import Endpoint, wire
from toolkit.engines.chat import Chat
from toolkit.errors import NotReadyError

ASKED = [{"role": "user", "content": "2 + 2?"}]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for 127.0.0.1, in one file."""
    if not shutil.which("openssl"):
        skip_or_fail("openssl is not on PATH")
    folder = tmp_path_factory.mktemp("tls")
    argv = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1")
    files = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "certificate"))
    subprocess.run((*argv, *files), check=True, capture_output=True)
    (folder / "both").write_bytes((folder / "certificate").read_bytes() + (folder / "key").read_bytes())
    return folder / "both"


@pytest.fixture
def url(certificate: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with listening(lambda request: send(request, completion({"content": "4"})), context) as address:
        yield address


@pytest.fixture(autouse=True)
def read_anew() -> Iterator[None]:
    """Certificates are read once a process."""
    wire.trusted.cache_clear()
    yield
    wire.trusted.cache_clear()


def test_a_certificate_that_nobody_signed_is_named_with_its_remedy(url):
    with pytest.raises(NotReadyError, match=r"its TLS certificate is not trusted .*self.signed") as problem, Chat(Endpoint("vllm", url, "m")) as chat:
        chat.ask(ASKED, 16)
    assert "SSL_CERT_FILE" in problem.value.remedy
    with pytest.raises(NotReadyError, match="its TLS certificate is not trusted"):
        wire.ask(f"{url}/models")


def test_ssl_cert_file_makes_it_trusted(url, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Chat(Endpoint("vllm", url, "m")) as chat:
        assert chat.ask(ASKED, 16).text == "4"
    assert "choices" in wire.ask(f"{url}/models")


def test_tls_is_not_spoken_where_it_is_not_expected(url):
    plain = url.replace("https://", "http://")
    with pytest.raises(Exception, match=plain) as problem, Chat(Endpoint("vllm", plain, "m"), timeout=5) as chat:
        chat.ask(ASKED, 16)
    assert problem.value.remedy  # type: ignore[attr-defined]


def test_a_server_without_tls_is_named():
    with listening(lambda request: send(request, "{}")) as plain:
        address = plain.replace("http://", "https://")
        with pytest.raises(NotReadyError, match="no TLS connection") as problem, Chat(Endpoint("vllm", address, "m"), timeout=5) as chat:
            chat.ask(ASKED, 16)
    assert "http://" in problem.value.remedy


def test_a_handshake_that_is_never_answered_is_no_connection():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(NotReadyError, match="cannot be reached"), Chat(Endpoint("vllm", url, "m"), timeout=0.2) as chat:
            chat.ask(ASKED, 16)


def test_the_command_line_names_the_certificate_and_ends_with_code_4(url):
    done = thinkship("verify", "--url", url, "--model", "m", "--timeout", 5)
    assert done.returncode == 4 and "certificate is not trusted" in done.stderr and "SSL_CERT_FILE" in done.stderr
    assert "Traceback" not in done.stderr
