"""`thinkship bundle load`: every byte is held against the manifest before it gets its name, and directories get theirs when all of it is checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from toolkit import console
from toolkit.artifact import RECORD, Record, read_record, verify_files
from toolkit.bundle import archive, deployment
from toolkit.bundle.archive import Bundle, Slot, Wanted, fill
from toolkit.bundle.manifest import Manifest, Member
from toolkit.errors import BrokenError, NotReadyError
from toolkit.store import SPARE, Store

MIB = 1 << 20


def load(path: Path, store: Store, *, to_docker: bool, registry: str) -> None:
    """Restore a bundle and say what to do next.

    UsageError, InvalidError and BrokenError as `archive.opened`; BrokenError where a member is not what the manifest says, or the store holds
    another directory of a name; NotReadyError where the disk is too small or there is no Docker Engine. Until all is checked no directory gets
    its name.
    """
    bring = to_docker or bool(registry)
    with archive.opened(path) as bundle, archive.disk(store.root), store.locked():
        work = Load(bundle, store)
        work.require_space()
        if bring:
            from toolkit.bundle import engine

            engine.require(bundle.manifest)
        _received(work)
        work.name()
        work.configure(registry)
        if bring:
            engine.bring(bundle, registry)
    manifest = bundle.manifest
    console.say(f"\n{path}: {len(manifest.members)} members, each as the manifest says; bundle {manifest.id}, verdict: {manifest.verdict or 'none'}")
    console.say(deployment.next_steps(manifest, work.folder, registry, bring or not manifest.images))


class Load:
    """One bundle on its way into a store; the store is held meanwhile."""

    def __init__(self, bundle: Bundle, store: Store) -> None:
        self.bundle, self.store, self.manifest = bundle, store, bundle.manifest
        self.incoming = store.root / ".incoming" / self.manifest.id[:12]
        self.there = {name for name in self.manifest.directories if self._is_there(name)}

    @property
    def folder(self) -> Path:
        """Return where recipe, chart, compose and values are laid: each bundle has its own, so that an operator's key and settings stay."""
        return self.store.root / ".bundles" / f"{self.manifest.recipe}-{self.manifest.id[:12]}"

    def _is_there(self, name: str) -> bool:
        """Say whether the store holds a directory already, as it is here; BrokenError where it is another, or was touched."""
        directory = self.store.root / name
        record = read_record(directory)
        if record is None:
            return False
        verify_files(directory, record, deep=True)
        if not _same(record, self.manifest, name):
            message = f"{directory} is another directory of that name than the bundle's"
            raise BrokenError(message, f"rm -r {directory}, or load into another --store")
        return True

    def require_space(self) -> None:
        """Check before the first byte that what is missing finds room."""
        needed = SPARE + sum(member.size - _size(self._draft(member)) for member in self.manifest.members if self._wanted(member))
        free = shutil.disk_usage(self.store.root).free
        if free < needed:
            message = f"{self.store.root}: {needed / MIB:,.0f} MiB are needed, {free / MIB:,.0f} MiB are free"
            raise NotReadyError(message, "free space, or load into a --store on another disk")

    def _wanted(self, member: Member) -> bool:
        """Say whether a member is still to be written: images stay in the bundle."""
        root, _, rest = member.path.partition("/")
        known = root == "images" or (root == "store" and rest.partition("/")[0] in self.there)
        return not known and not (self.incoming / member.path).is_file()

    def _draft(self, member: Member) -> Path:
        path = self.incoming / member.path
        return path.with_name(f"{path.name}.part")

    def receive(self, count: Callable[[int], None]) -> None:
        """Check every member, and write those that are wanted apart from the store's directories; BrokenError names a bad one."""
        for other in self.incoming.parent.glob("*"):
            if other != self.incoming:
                shutil.rmtree(other)  # of another bundle, whose load was given up
        for slot in self.bundle.slots[:2]:
            self.bundle.require_frame(slot)
        for slot, member in zip(self.bundle.slots[2:], self.manifest.members, strict=True):
            self.bundle.require_frame(slot)
            if self._wanted(member):
                self._write(slot, member, count)
            elif (self.incoming / member.path).is_file():
                count(member.size)  # an earlier go has checked it and given it its name
            else:
                self.bundle.require_content(slot, count)
        self.bundle.require_end()
        for name in self._missing():
            record = read_record(self.incoming / "store" / name)
            if record is None or not _same(record, self.manifest, name):
                raise BrokenError(f"{self.bundle.path}: the record of {name} tells of other files than the bundle holds", "have it saved again")

    def _missing(self) -> list[str]:
        return [name for name in self.manifest.directories if name not in self.there]

    def _write(self, slot: Slot, member: Member, count: Callable[[int], None]) -> None:
        path, draft = self.incoming / member.path, self._draft(member)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        with draft.open("r+b") as sink:
            self.bundle.stream.seek(slot.data)
            if not fill(sink, Wanted(0, member.size, member.sha256), self.bundle.stream, count):
                raise self.bundle.broken(slot)
            sink.truncate(member.size)
            sink.flush()
            os.fsync(sink.fileno())
        draft.chmod(0o755 if member.executable else 0o644)
        if member.mtime_ns is not None:
            os.utime(draft, ns=(member.mtime_ns, member.mtime_ns))
        os.replace(draft, path)

    def name(self) -> None:
        """Give what was received its name: directories whole, then what lies beside them."""
        for name in self._missing():
            shutil.rmtree(self.store.root / name, ignore_errors=True)  # without a record it is nothing
            os.replace(self.incoming / "store" / name, self.store.root / name)
            console.step(name, "", "done")
        for name in sorted(self.there):
            console.step(name, "", "skip")
        for member in self.manifest.members:
            if member.path.partition("/")[0] not in ("store", "images"):
                path = self.folder / member.path
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.incoming / member.path, path)
        shutil.rmtree(self.incoming)

    def configure(self, registry: str) -> None:
        """Write compose's settings for this store, and the chart's values for a registry."""
        for engine, one in self.manifest.serving.items():
            (self.folder / "compose" / f"{engine}.env").write_bytes(deployment.environment(one, self.store.root.resolve()))
        values = self.folder / "values.yaml"
        if registry:
            values.write_bytes(deployment.from_registry(values.read_bytes(), registry))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _same(record: Record, manifest: Manifest, name: str) -> bool:
    """Say whether a record tells of a bundle's very files."""
    members = ((member.path.removeprefix(f"store/{name}/"), member.size, member.sha256) for member in manifest.of_directory(name))
    held = {(file.path, file.size, file.sha256) for file in record.held}
    return {file for file in members if file[0] != RECORD} == held


def _received(work: Load) -> None:
    total, done = sum(member.size for member in work.manifest.members), 0
    if work.incoming.exists():
        console.note(f"goes on with {work.incoming}: what was checked is kept")
    with console.bar() as bar:

        def count(size: int) -> None:
            nonlocal done
            done += size
            bar.report(done // MIB, total // MIB, "MiB")

        try:
            work.receive(count)
        except BrokenError:
            shutil.rmtree(work.incoming, ignore_errors=True)  # the archive is bad: nothing of it is kept
            raise
