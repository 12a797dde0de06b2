"""What the host asks of a model hub: which commit a revision is, and which files with which checksums it holds. No file is downloaded here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

from toolkit.errors import InvalidError, NotReadyError, ThinkshipError
from toolkit.sources import HubSource, RemoteSource

Kind = Literal["models", "datasets"]
TIMEOUT, WAITS = 20.0, (0.5, 1.0, 2.0)
"""Seconds that one answer may take, and seconds before the second, third and fourth try where the hub is busy or cut off."""
LONGEST_WAIT = 30.0
"""Seconds up to which a hub's Retry-After is kept."""
PAGE = 200
"""Files on a page of ModelScope's listing of a dataset, as its own client asks for them."""
TRUNCATED_AT = 3000
"""ModelScope cuts the listing of a model here without a word (modelscope_hub 0.5.1, constants.py)."""
OFFLINE_SETTINGS = ("THINKSHIP_OFFLINE", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository."""

    path: str
    size: int
    """Bytes."""
    checksum: str
    """`sha256:…` of the content, or `git-sha1:…` of git's blob where the hub tells no other."""


@dataclass(frozen=True)
class Question:
    """A request for a document, and how its subject is called in messages."""

    url: str
    subject: str
    headers: tuple[tuple[str, str], ...] = ()
    token: str = "HF_TOKEN"
    """The setting that holds this hub's token."""


class Hub(Protocol):
    """A place that keeps repositories."""

    def commit(self, revision: str) -> str:
        """Return what a revision is now, as fixed as this hub can say it."""

    def files(self, revision: str) -> tuple[RemoteFile, ...]:
        """Return all files."""

    def text(self, revision: str, path: str) -> str:
        """Return the text of a small file."""


def offline() -> bool:
    """Say whether the user wants no network at all: THINKSHIP_OFFLINE=1 or HF_HUB_OFFLINE=1."""
    return any(os.environ.get(name, "").strip().lower() in ("1", "on", "true", "yes") for name in OFFLINE_SETTINGS)


def hub_of(source: RemoteSource, kind: Kind) -> Hub:
    """Return the hub of a source, at the endpoint that the environment names."""
    return HuggingFace(source.hub, kind) if isinstance(source, HubSource) else ModelScope(source.modelscope, kind)


def token_file() -> Path:
    """Return where the Hugging Face tools keep a token (`hf auth login`)."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_TOKEN_PATH") or home / "token")


def hugging_face_token() -> str:
    """Return the token for the hub, from HF_TOKEN or its file; empty where there is none."""
    try:
        return os.environ.get("HF_TOKEN", "").strip() or token_file().read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class HuggingFace:
    """The Hugging Face hub, or a mirror with its API."""

    repository: str
    kind: Kind

    @property
    def endpoint(self) -> str:
        """Where its API is."""
        return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")

    def commit(self, revision: str) -> str:
        """Return the commit id of a branch, a tag or a shortened id."""
        return str(_json(self._question(f"/api/{self.kind}/{self.repository}/revision/{quote(revision, safe='')}", revision))["sha"])

    def files(self, revision: str) -> tuple[RemoteFile, ...]:
        """Return all files of a commit; large ones have a SHA-256, others git's own checksum."""
        return tuple(map(self._file, self._entries(revision)))

    def text(self, revision: str, path: str) -> str:
        """Return the text of a small file."""
        folder = "" if self.kind == "models" else f"{self.kind}/"
        return _ask(self._question(f"/{folder}{self.repository}/resolve/{quote(revision, safe='')}/{quote(path)}", revision))[0]

    def _question(self, path: str, revision: str) -> Question:
        token = hugging_face_token()
        headers = (("Authorization", f"Bearer {token}"),) if token else ()
        return Question(self.endpoint + path, f"{self.repository}@{revision}", headers)

    def _entries(self, revision: str) -> Iterator[dict[str, Any]]:
        path = f"/api/{self.kind}/{self.repository}/tree/{quote(revision, safe='')}?recursive=true"
        while path:
            text, path = _ask(self._question(path, revision))
            yield from (entry for entry in _parsed(text, self.repository) if entry["type"] == "file")

    @staticmethod
    def _file(entry: dict[str, Any]) -> RemoteFile:
        large = entry.get("lfs")
        return RemoteFile(entry["path"], entry["size"], f"sha256:{large['oid']}" if large else f"git-sha1:{entry['oid']}")


@dataclass(frozen=True)
class ModelScope:
    """ModelScope, whose API names revisions but no commits: the checksums alone pin what is downloaded."""

    repository: str
    kind: Kind

    @property
    def endpoint(self) -> str:
        """Where its API is."""
        return os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn").rstrip("/")

    def commit(self, revision: str) -> str:
        """Return the revision as it is."""
        return revision

    def files(self, revision: str) -> tuple[RemoteFile, ...]:
        """Return all files."""
        entries = list(self._entries(revision))
        if self.kind == "models" and len(entries) >= TRUNCATED_AT:
            raise InvalidError(f"{self.repository}: ModelScope lists only {TRUNCATED_AT} of its files", "use source: {path: …} with a copy")
        return tuple(map(self._file, entries))

    def text(self, revision: str, path: str) -> str:
        """Return the text of a small file."""
        return _ask(self._question("repo", revision, FilePath=path))[0]

    def _question(self, what: str, revision: str, **wanted: str | int) -> Question:
        token = os.environ.get("MODELSCOPE_API_TOKEN", "").strip()
        headers = (("Authorization", f"Bearer {token}"), ("Cookie", f"m_session_id={token}")) if token else ()
        url = f"{self.endpoint}/api/v1/{self.kind}/{self.repository}/{what}?{urlencode({'Revision': revision, **wanted})}"
        return Question(url, f"{self.repository}@{revision}", headers, "MODELSCOPE_API_TOKEN")

    def _entries(self, revision: str) -> Iterator[dict[str, Any]]:
        if self.kind == "models":
            yield from self._page("repo/files", revision, Recursive="True")
            return
        number, page = 1, self._page("repo/tree", revision, Recursive="True", PageNumber=1, PageSize=PAGE)
        while page:
            yield from page
            number += 1
            page = self._page("repo/tree", revision, Recursive="True", PageNumber=number, PageSize=PAGE) if len(page) >= PAGE else []

    def _page(self, what: str, revision: str, **wanted: str | int) -> list[dict[str, Any]]:
        question = self._question(what, revision, **wanted)
        answer = _json(question)
        if answer.get("Success") is False:
            raise InvalidError(f"{question.subject}: ModelScope says: {answer.get('Message')}", "check the name and the revision")
        return [entry for entry in answer["Data"]["Files"] if entry.get("Type") != "tree"]

    def _file(self, entry: dict[str, Any]) -> RemoteFile:
        if not entry.get("Sha256"):
            raise InvalidError(f"{self.repository}: ModelScope tells no checksum of {entry['Path']}", "use source: {path: …} with a copy")
        return RemoteFile(entry["Path"], entry["Size"], f"sha256:{entry['Sha256'].lower()}")


def _json(question: Question) -> Any:
    return _parsed(_ask(question)[0], question.subject)


def _parsed(text: str, subject: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise NotReadyError(f"{subject}: the hub's answer is no JSON", "check HF_ENDPOINT or MODELSCOPE_ENDPOINT, and the proxy") from error


def _ask(question: Question) -> tuple[str, str]:
    """Return a document and the path of its next page, empty where there is none."""
    for wait in (*WAITS, None):
        try:
            return _answer(question)
        except HTTPError as error:
            with error:
                if wait is None or error.code not in (408, 429, 500, 502, 503, 504):
                    raise _refusal(question, error) from error
                wait = max(wait, min(LONGEST_WAIT, _seconds(error.headers.get("Retry-After"))))
        except (OSError, HTTPException) as error:
            if wait is None or "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise _unreachable(question, error) from error
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _answer(question: Question) -> tuple[str, str]:
    request = Request(question.url, headers={"User-Agent": "thinkship", "Accept-Encoding": "identity"})
    for name, value in question.headers:
        request.add_unredirected_header(name, value)  # a token goes to the hub alone, not where it redirects to
    with urlopen(request, timeout=TIMEOUT) as answer:
        link = str(answer.headers.get("Link") or "")
        text = answer.read().decode("utf-8", "replace")
    # the address of the next page may name the hub itself where a mirror was asked: only its path is kept
    following = urlsplit(link.partition("<")[2].partition(">")[0]) if 'rel="next"' in link else urlsplit("")
    return text, following._replace(scheme="", netloc="").geturl()


def _seconds(header: str | None) -> float:
    return float(header) if header and header.isdigit() else 0.0


def _refusal(question: Question, error: HTTPError) -> ThinkshipError:
    """Return the error that tells what a hub's refusal means for the user."""
    said, subject = error.headers.get("X-Error-Code", ""), question.subject
    if error.code == 429:
        return NotReadyError(f"{subject}: the hub limits how often it is asked", f"wait some minutes, or give a token in {question.token}")
    if error.code >= 500:
        return NotReadyError(f"{subject}: the hub answered {error.code}", "try again later, or set HF_ENDPOINT to a mirror")
    if said == "GatedRepo":
        return NotReadyError(f"{subject} asks for its terms to be accepted first", f"accept them on its page, then give a token in {question.token}")
    if error.code in (401, 403) and question.headers and said != "RepoNotFound":
        return NotReadyError(
            f"{subject}: the hub refuses the token ({error.code})", f"make a new one with the right to read, and give it in {question.token}"
        )
    if said == "RevisionNotFound":
        return InvalidError(f"{subject}: the repository has no such revision", "correct revision: a branch, a tag or a commit id")
    known = "" if question.headers else f", or it is private and needs a token in {question.token}"
    return InvalidError(f"{subject}: the hub has no such repository{known} ({error.code})", "correct its name, `owner/name`")


def _unreachable(question: Question, error: Exception) -> NotReadyError:
    cause = error.reason if isinstance(error, URLError) else error
    remedy = "check the network, set HF_ENDPOINT or MODELSCOPE_ENDPOINT to a mirror, or use source: {path: …} with a copy"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        remedy = "name a file with your authority's certificate in SSL_CERT_FILE, or correct HF_ENDPOINT or MODELSCOPE_ENDPOINT"
    return NotReadyError(f"{question.subject}: the hub at {urlsplit(question.url).netloc} cannot be reached: {cause}", remedy)
