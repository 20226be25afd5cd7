"""Where a data set lies: a folder on this machine, or one behind any URL that fsspec knows (s3://, gs://, hf://)."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from synth.errors import DatasetError
from synth.files import whole_file, write_bytes
from synth.urls import credentials_refused, has_credentials, redact

_READ_ONLY = frozenset(("http", "https", "data", "zip", "tar", "libarchive", "github", "git", "jupyter", "reference"))


class Store:
    """Files by name, each written whole or not at all. Names have forward slashes: `data/train-00000.parquet`.

    >>> Store("s3://bucket/sofas").write("README.md", b"...")  # doctest: +SKIP

    Raises:
        DatasetError: for a URL of a kind that is not installed, or one with credentials in it.
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

    def __str__(self) -> str:
        return self.url

    def check_writable(self) -> None:
        """Write a file of no content and a name of its own, and take it away again.

        Raises:
            DatasetError: if the storage only reads, or refuses.
        """
        protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        if protocols & _READ_ONLY or "::" in self.url:
            raise DatasetError(f"{self.url} can only be read: name storage that takes files, s3://bucket/runs, say")
        probe = f".writable-{secrets.token_hex(8)}"
        try:
            self.write(probe, b"")
            self.remove(probe)
        except NotImplementedError:
            raise DatasetError(f"{self.url} can only be read: name storage that takes files") from None

    def names(self, pattern: str) -> list[str]:
        """The files that match, sorted; the pattern's folder part is fixed: `data/train-*.parquet`."""
        folder, _, last = pattern.rpartition("/")
        self._fs.invalidate_cache()
        with self._explained("listed"):
            try:
                found = self._fs.ls(self._path(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        names = (path.rstrip("/").rpartition("/")[2] for path in found)
        return sorted(f"{folder}/{name}" if folder else name for name in names if fnmatch(name, last))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self.names(name))

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            DatasetError: if it cannot be read.
        """
        with self._explained("read"):
            content: bytes = self._fs.cat_file(self._path(name))
        return content

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """A file to read parts of: what Parquet's reader takes."""
        with self._explained("read"), self._fs.open(self._path(name), "rb") as file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Put a whole file in place of an older one. On a disk: beside it, flushed, renamed. An object store shows an
        object when all of it is there.

        Raises:
            DatasetError: if it cannot be written, because the disk is full, say; the older file stays.
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
        """Put a file of this machine there, whole, without holding it in memory where the storage is far.

        Raises:
            DatasetError: if it cannot be written.
        """
        if self.is_local:
            self.write(name, path.read_bytes())
            return
        with self._explained("written"):
            self._fs.put_file(str(path), self._path(name))

    def download(self, name: str, path: Path) -> None:
        """Bring a file to this machine, whole.

        Raises:
            DatasetError: if it cannot be read.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained("read"), whole_file(path) as temporary:
            self._fs.get_file(self._path(name), str(temporary))

    def remove(self, name: str) -> None:
        """Nothing is there afterwards.

        Raises:
            DatasetError: if it cannot be removed.
        """
        with self._explained("written"):
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else str(self._root)

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """A store's own errors in one line of ours."""
        try:
            yield
        except OSError as error:
            reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
            raise DatasetError(f"{self.url} cannot be {done}: {redact(reason)}; what was whole stays whole") from None
