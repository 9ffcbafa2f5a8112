"""A disk that a power cut may catch at any moment: what was not fsynced is there, or not, or torn.

`SimulatedDisk` does the file operations of a writer on real files and keeps beside them what a disk would hold for
sure: of a file, its bytes as of its last fsync; of a directory, its names as of its last fsync. `freeze` says, at each
operation, what could be found after a power cut then; `Frozen.write_to` makes one of the many possible findings.

SQLite's files are taken as they are: what SQLite writes it does not write through our seam. Its promise is used, that
what a COMMIT has acknowledged is durable, and what it wrote to the WAL since may be there or not, in any part.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mome_store.store.files import FileOperations

CATALOG = "catalog.sqlite"


@dataclass
class File:
    """durable: the bytes as of the last fsync. pending: what was appended since, write by write."""

    durable: bytes = b""
    pending: list[bytes] = field(default_factory=list)

    def found(self, keep: Callable[[], bool], sector: int) -> bytes:
        """Each sector of what is pending is there, or zeros; or the file ends before it."""
        tail = b"".join(self.pending)
        sectors = [tail[at : at + sector] for at in range(0, len(tail), sector)]
        kept = [part if keep() else bytes(len(part)) for part in sectors]
        while kept and not any(kept[-1]) and keep():
            kept.pop()
        return self.durable + b"".join(kept)


@dataclass
class Directory:
    """durable: the names as of the last fsync. pending: how they changed since, each of several names at once."""

    durable: dict[str, File | Directory] = field(default_factory=dict)
    pending: list[dict[str, File | Directory | None]] = field(default_factory=list)

    def now(self) -> dict[str, File | Directory]:
        return self.found(lambda: True)

    def found(self, keep: Callable[[], bool]) -> dict[str, File | Directory]:
        names = dict(self.durable)
        for change in self.pending:
            if keep():
                for name, what in change.items():
                    if what is None:
                        names.pop(name, None)
                    else:
                        names[name] = what
        return names


@dataclass(frozen=True)
class Frozen:
    """What a power cut would leave. operation: what came next. commit: the last one acknowledged.

    inside: the power went while SQLite was committing, and `wal_before` is how long its WAL was before.
    """

    operation: str
    root: Directory
    catalog: dict[str, bytes]
    commit: int
    inside: bool = False
    wal_before: int = 0

    def write_to(self, path: Path, rng: random.Random, chance: float, sector: int) -> None:
        """chance: that a sector, or a change of a directory, which nothing has made durable is there all the same."""

        def keep() -> bool:
            return rng.random() < chance

        def write(directory: Directory, path: Path) -> None:
            path.mkdir()
            for name, what in directory.found(keep).items():
                if isinstance(what, Directory):
                    write(what, path / name)
                else:
                    (path / name).write_bytes(what.found(keep, sector))

        write(self.root, path)
        for name, content in self.catalog.items():
            if self.inside and name.endswith("-wal"):
                content = File(content[: self.wal_before], [content[self.wal_before :]]).found(keep, sector)
            (path / name).write_bytes(content)


class SimulatedDisk(FileOperations):
    """File operations below `root`, each of them frozen before it is done. `commit`: the last one acknowledged."""

    def __init__(self, root: Path, commit: int) -> None:
        self.root = root
        self.commit = commit
        self.frozen: list[Frozen] = []
        self._open: dict[int, File] = {}
        self._top = _scan(root)

    def freeze(self, operation: str, inside: bool = False, wal_before: int = 0) -> None:
        catalog = {
            file.name: file.read_bytes() for file in self.root.glob(f"{CATALOG}*") if file.suffix != ".sqlite-shm"
        }
        self.frozen.append(Frozen(operation, _copy(self._top), catalog, self.commit, inside, wal_before))

    def wal_bytes(self) -> int:
        wal = self.root / f"{CATALOG}-wal"
        return wal.stat().st_size if wal.exists() else 0

    def create(self, path: Path) -> int:
        self.freeze(f"create {path.relative_to(self.root)}")
        fd = super().create(path)
        self._open[fd] = File()
        self._directory(path.parent).pending.append({path.name: self._open[fd]})
        return fd

    def write(self, fd: int, content: bytes | memoryview) -> None:
        self.freeze("write")
        super().write(fd, content)
        self._open[fd].pending.append(bytes(content))

    def fsync(self, fd: int) -> None:
        self.freeze("fsync")
        super().fsync(fd)
        file = self._open[fd]
        file.durable, file.pending = file.durable + b"".join(file.pending), []

    def close(self, fd: int) -> None:
        super().close(fd)
        del self._open[fd]

    def rename(self, source: Path, target: Path) -> None:
        self.freeze(f"rename to {target.relative_to(self.root)}")
        super().rename(source, target)
        directory = self._directory(source.parent)
        directory.pending.append({source.name: None, target.name: directory.now()[source.name]})

    def unlink(self, path: Path) -> None:
        self.freeze(f"unlink {path.relative_to(self.root)}")
        if path.exists() and not path.name.startswith(CATALOG):
            self._directory(path.parent).pending.append({path.name: None})
        super().unlink(path)

    def make_directory(self, path: Path) -> None:
        self.freeze(f"make {path.relative_to(self.root)}")
        if not path.exists():
            self._directory(path.parent).pending.append({path.name: Directory()})
        super().make_directory(path)

    def remove_directory(self, path: Path) -> None:
        self.freeze(f"remove {path.relative_to(self.root)}")
        super().remove_directory(path)
        if not path.exists():
            self._directory(path.parent).pending.append({path.name: None})

    def fsync_directory(self, path: Path) -> None:
        self.freeze("fsync directory")
        super().fsync_directory(path)
        if path == self.root or self.root in path.parents:
            directory = self._directory(path)
            directory.durable, directory.pending = directory.now(), []

    def _directory(self, path: Path) -> Directory:
        directory = self._top
        for name in path.relative_to(self.root).parts:
            found = directory.now()[name]
            assert isinstance(found, Directory)
            directory = found
        return directory


def _scan(path: Path) -> Directory:
    """All that is there is durable."""
    directory = Directory()
    for entry in path.iterdir() if path.exists() else ():
        if entry.is_dir():
            directory.durable[entry.name] = _scan(entry)
        elif not entry.name.startswith(CATALOG):
            directory.durable[entry.name] = File(entry.read_bytes())
    return directory


def _copy(directory: Directory) -> Directory:
    """A deep copy in which a file or directory with two names is still one; bytes are shared."""
    copies: dict[int, File | Directory] = {}

    def copied(what: File | Directory) -> File | Directory:
        if id(what) not in copies:
            if isinstance(what, File):
                copies[id(what)] = File(what.durable, list(what.pending))
            else:
                copies[id(what)] = twin = Directory()
                twin.durable = {name: copied(held) for name, held in what.durable.items()}
                twin.pending = [
                    {name: None if held is None else copied(held) for name, held in change.items()}
                    for change in what.pending
                ]
        return copies[id(what)]

    top = copied(directory)
    assert isinstance(top, Directory)
    return top
