"""The storage of a dataset: a local folder, or a folder at any URL that fsspec knows (s3://, gs://, hf://)."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from synth.errors import DatasetError, FileError, os_reason
from synth.files import whole_file, write_bytes
from synth.urls import credentials_refused, has_credentials, redact

_READ_ONLY = frozenset(("http", "https", "data", "zip", "tar", "libarchive", "github", "git", "jupyter", "reference"))


class Store:
    """Files by name, each written whole or not at all. Names use forward slashes: `data/train-00000.parquet`.

    >>> Store("s3://bucket/sofas").write("README.md", b"...")  # doctest: +SKIP

    Raises:
        DatasetError: for a URL that fsspec cannot open, or one with credentials in it.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/")
        if has_credentials(self.url):
            raise DatasetError(credentials_refused(self.url))
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError, OSError) as error:
            raise DatasetError(f"{self.url} cannot be opened: {redact(str(error))}") from None
        self.is_local = isinstance(self._fs, LocalFileSystem)
        self.path = Path(self._root) if self.is_local else None
        """The folder, absolute, with symlinks as given; None if the storage is remote."""

    def __str__(self) -> str:
        return self.url

    def check_writable(self) -> None:
        """Write an empty file under a random name, and remove it.

        Raises:
            DatasetError: if the storage is read-only, or refuses the file.
        """
        protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        if protocols & _READ_ONLY or "::" in self.url:
            raise DatasetError(f"{self.url} is read-only: name a writable storage, such as s3://bucket/runs")
        probe = f".writable-{secrets.token_hex(8)}"
        try:
            self.write(probe, b"")
            self.remove(probe)
        except NotImplementedError:
            raise DatasetError(f"{self.url} is read-only: name a writable storage") from None

    def names(self, pattern: str) -> list[str]:
        """List the files that match a pattern, sorted. Only the last part may have wildcards: `data/train-*.parquet`.

        Raises:
            DatasetError: if the folder cannot be listed. A missing folder has no files.
        """
        folder, _, last = pattern.rpartition("/")
        self._fs.invalidate_cache()  # other processes write to the same storage
        with self._explained("listed"):
            try:
                found = self._fs.ls(self._path(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        names = (path.rstrip("/").rpartition("/")[2] for path in found)
        return sorted(f"{folder}/{name}" if folder else name for name in names if fnmatch(name, last))

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        return bool(self.names(name))

    def read(self, name: str) -> bytes:
        """Read a whole file.

        Raises:
            DatasetError: if it cannot be read.
        """
        with self._explained("read"):
            content: bytes = self._fs.cat_file(self._path(name))
        return content

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Open a file for reading parts of it, as Parquet's reader does.

        Raises:
            DatasetError: if it cannot be read.
        """
        with self._explained("read"), self._fs.open(self._path(name), "rb") as file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Write a file, replacing an older one. An object store shows an object only once it is complete.

        Raises:
            DatasetError: if it cannot be written, for example because the disk is full; the older file stays.
        """
        path = self._path(name)
        with self._explained("written"):
            if not self.is_local:
                self._fs.pipe_file(path, content)
                return
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, content)

    def upload(self, name: str, path: Path) -> None:
        """Upload a local file, without reading it into memory if the storage is remote.

        Raises:
            DatasetError: if it cannot be written.
        """
        if self.is_local:
            self.write(name, path.read_bytes())
            return
        with self._explained("written"):
            self._fs.put_file(str(path), self._path(name))

    def download(self, name: str, path: Path) -> None:
        """Download a file, whole or not at all.

        Raises:
            DatasetError: if it cannot be read.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained("read"), whole_file(path) as temporary:
            self._fs.get_file(self._path(name), str(temporary))

    def remove(self, name: str) -> None:
        """Remove a file, if it exists.

        Raises:
            DatasetError: if it cannot be removed.
        """
        with self._explained("removed"):
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else str(self._root)

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """Turn an error of the storage into a DatasetError of one line, without credentials."""
        try:
            yield
        except FileError as error:  # of the writer of local files
            raise DatasetError(redact(str(error))) from None
        except OSError as error:
            reason = redact(os_reason(error))
            raise DatasetError(f"{self.url} cannot be {done}: {reason}; what was whole stays whole") from None
