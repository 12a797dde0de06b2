"""A repository of a hub on this disk: from earlier downloads, from the hub's own cache on this machine, else from the hub, each file checked.

The lock tells which files, with which checksums; no listing is asked for here. Not covered: Xet's own protocol, since hubs serve the same
files over HTTP.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from downloads import Download, Origin, fetch, matches
from program import INVALID, NOT_READY, Args, ProgramError, note, tracked


@dataclass(frozen=True)
class Repository:
    """Where a source's files are."""

    site: str
    """`hub` or `modelscope`."""
    name: str
    revision: str
    kind: str
    """`models` or `datasets`."""

    @classmethod
    def of(cls, source: dict[str, Any], kind: str) -> Repository:
        """Return a recipe's source as a repository."""
        site = "hub" if "hub" in source else "modelscope"
        return cls(site, source[site], source["revision"], kind)

    def url(self, path: str) -> str:
        """Return the address of a file."""
        if self.site == "modelscope":
            endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn").rstrip("/")
            return f"{endpoint}/api/v1/{self.kind}/{self.name}/repo?{urlencode({'Revision': self.revision, 'FilePath': path})}"
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        folder = "" if self.kind == "models" else f"{self.kind}/"
        return f"{endpoint}/{folder}{self.name}/resolve/{quote(self.revision, safe='')}/{quote(path)}"

    def headers(self) -> dict[str, str]:
        """Return the headers that carry the user's token; the client keeps them from other hosts."""
        token = self._token()
        if not token:
            return {}
        return {"Authorization": f"Bearer {token}", **({"Cookie": f"m_session_id={token}"} if self.site == "modelscope" else {})}

    def _token(self) -> str:
        if self.site == "modelscope":
            return os.environ.get("MODELSCOPE_API_TOKEN", "").strip()
        from huggingface_hub import get_token

        return get_token() or ""

    def cached(self, path: str) -> Path | None:
        """Return the file in the cache of the Hugging Face tools, None where it is not there."""
        from huggingface_hub import try_to_load_from_cache

        if self.site != "hub":
            return None
        found = try_to_load_from_cache(self.name, path, revision=self.revision, repo_type=self.kind.removesuffix("s"))
        return Path(found) if isinstance(found, str) else None

    def refusal(self, path: str, answer: Any) -> ProgramError:
        """Tell what a hub's refusal of a file means for the user."""
        said, code, where = answer.headers.get("X-Error-Code", ""), answer.status_code, f"{self.name}@{self.revision}: {path}"
        token = "HF_TOKEN" if self.site == "hub" else "MODELSCOPE_API_TOKEN"
        if said == "GatedRepo":
            remedy = f"accept them on its page, then give a token in {token}"
            return ProgramError(f"{self.name} asks for its terms to be accepted first", remedy, NOT_READY)
        if code in (401, 403):
            remedy = f"give a token with the right to read it in {token}"
            return ProgramError(
                f"{where}: the hub refuses {'the token' if self._token() else 'a reader without a token'} ({code})", remedy, NOT_READY
            )
        if code == 429:
            return ProgramError(f"{where}: the hub limits how often it is asked", f"wait some minutes, or give a token in {token}", NOT_READY)
        if code >= 500:
            return ProgramError(f"{where}: the hub answered {code}", "try again later, or set HF_ENDPOINT to a mirror", NOT_READY)
        remedy = "it was moved or removed, or the mirror lacks it: name another revision and run `thinkship lock` on the recipe"
        return ProgramError(f"{where}: the hub answered {code}", remedy, INVALID)


def offline() -> bool:
    """Say whether no socket may be opened."""
    return any(os.environ.get(name, "").strip().lower() in ("1", "on", "true", "yes") for name in ("THINKSHIP_OFFLINE", "HF_HUB_OFFLINE"))


def bring(source: dict[str, Any], kind: str, locked: Sequence[dict[str, Any]], args: Args, name: str) -> Path:
    """Return a folder below the scratch that holds a source's files by their names; ProgramError (3, 4) as downloads.fetch."""
    repository, downloads = Repository.of(source, kind), args.downloads or args.scratch / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    files = [Download(_inside(file["path"]), file["size"], file["checksum"], repository.url(file["path"])) for file in locked]
    found = dict(_present(files, repository, downloads))
    missing = {file.checksum: file for file in files if file.path not in found}
    if missing and offline():
        size = sum(file.size for file in missing.values()) / 1e9
        message = f"{repository.name}@{repository.revision}: {len(missing)} of {len(files)} files ({size:.2f} GB) are not on this machine"
        raise ProgramError(message, "run once without THINKSHIP_OFFLINE and HF_HUB_OFFLINE where the hub can be reached", NOT_READY)
    if missing:
        note(f"downloading {len(missing)} of {len(files)} files of {repository.name}@{repository.revision[:12]}")
        fetch(tuple(missing.values()), downloads, Origin(repository.headers(), repository.refusal))
    return _linked({file.path: found.get(file.path, file.name_in(downloads)) for file in files}, args.scratch / name)


def _inside(path: str) -> str:
    """Refuse a path that leads out of the folder it is put into."""
    if path.startswith("/") or ".." in path.split("/"):
        raise ProgramError(f"{path!r} leads out of the repository", "the lock file or the hub is not to be trusted", INVALID)
    return path


def _present(files: Sequence[Download], repository: Repository, downloads: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that are on this disk already, with where; what is not as pinned is not used."""
    for file in tracked(files, len(files), "files checked"):
        kept = file.name_in(downloads)
        for path in (kept, repository.cached(file.path)):
            if path and path.is_file():
                if path.stat().st_size == file.size and matches(path, file.checksum):
                    yield file.path, path
                    break
                note(f"{path} is not what the lock pins and is not used")
                if path == kept:
                    kept.unlink()


def _linked(places: dict[str, Path], folder: Path) -> Path:
    """Fill a new folder with links by the files' own names."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, place in places.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(place.resolve())
    return folder
