"""`damaged/<n>`: where a repair puts what it takes out of a store. Nothing is ever deleted.

A repair has a journal there, `unfinished.json`, written before the change that can't be taken back. Should the repair
be cut short, the next one finds it and either goes on from it or does the work anew, in the same folder. At its end
the journal becomes `report.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mome_store.store.files import FileOperations, replace_file, writing

DAMAGED = "damaged"
_UNFINISHED, _REPORT = "unfinished.json", "report.json"


class Aside:
    """The folder of one repair: one that was cut short, or else the next free number.

    path: the folder. journal: what the repair that was cut short had written, or None.
    """

    def __init__(self, directory: Path, files: FileOperations) -> None:
        self._directory = directory
        self._files = files
        number = 1
        while (directory / DAMAGED / str(number) / _REPORT).exists():
            number += 1
        self.path = directory / DAMAGED / str(number)
        try:
            self.journal: dict[str, Any] | None = json.loads((self.path / _UNFINISHED).read_bytes())
        except (FileNotFoundError, ValueError):
            self.journal = None

    def name(self, relative: str) -> str:
        """Of what will lie in the folder, as a path within the store."""
        return str((self.path / relative).relative_to(self._directory))

    def put(self, relative: str, content: bytes) -> None:
        """A new file in the folder, durable."""
        path = self.path / relative
        self._make(path.parent)
        replace_file(self._files, path, content)

    def take(self, relative: str) -> None:
        """Moves a file of the store into the folder, durably; one that is gone is fine."""
        source, target = self._directory / relative, self.path / relative
        if source.exists():
            self._make(target.parent)
            with writing(source):
                self._files.rename(source, target)
                self._files.fsync_directory(target.parent)
                self._files.fsync_directory(source.parent)

    def write_journal(self, value: Mapping[str, Any]) -> None:
        self.put(_UNFINISHED, _json(value))

    def forget_journal(self) -> None:
        """Of a repair that changed nothing yet."""
        with writing(self.path):
            self._files.unlink(self.path / _UNFINISHED)
        self.journal = None

    def finish(self) -> None:
        """The journal becomes the report."""
        with writing(self.path):
            self._files.rename(self.path / _UNFINISHED, self.path / _REPORT)
            self._files.fsync_directory(self.path)

    def _make(self, folder: Path) -> None:
        with writing(folder):
            for path in reversed([folder, *folder.parents]):
                if self._directory in path.parents and not path.exists():
                    self._files.make_directory(path)
                    self._files.fsync_directory(path.parent)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
