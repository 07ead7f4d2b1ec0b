"""Stands in for gcsfs, through which etils opens gs:// paths; STAND_IN_BUCKETS is their folder."""

import io
import os
from typing import Any

from bucket import Buckets, Object
import fsspec


class GCSFileSystem(fsspec.AbstractFileSystem):
    """Objects by key; a "folder" is what some key has before a slash."""

    protocol = ("gs", "gcs")
    cachable = False

    def __init__(self, *arguments: object, finalize_on_close: bool = False, **options: object):
        super().__init__()

    @property
    def _buckets(self) -> Buckets:
        return Buckets(os.environ["STAND_IN_BUCKETS"])

    def _split(self, path: str) -> tuple[str, str]:
        bucket, _, key = self._strip_protocol(path).partition("/")
        return bucket, key.rstrip("/")

    def _entry(self, bucket: str, found: Object) -> dict[str, Any]:
        name = f"{bucket}/{found.key}"
        return {"name": name, "size": found.size, "type": "file", "mtime": found.updated}

    def info(self, path: str, **options: object) -> dict[str, Any]:
        bucket, key = self._split(path)
        try:
            return self._entry(bucket, self._buckets.info(bucket, key))
        except OSError:
            if not key or any(self._buckets.list(bucket, key + "/")):
                return {"name": f"{bucket}/{key}".rstrip("/"), "size": 0, "type": "directory"}
            raise FileNotFoundError(path) from None

    def ls(self, path: str, detail: bool = True, **options: object) -> list:
        bucket, key = self._split(path)
        prefix = key + "/" if key else ""
        files, folders = [], {}
        for found in self._buckets.list(bucket, prefix):
            inside, slash, _ = found.key[len(prefix) :].partition("/")
            name = f"{bucket}/{prefix}{inside}"
            if slash:
                folders[name] = {"name": name, "size": 0, "type": "directory"}
            else:
                files.append(self._entry(bucket, found))
        entries = [*files, *folders.values()]
        if not entries:
            entries = [self.info(path)]
            entries = entries if entries[0]["type"] == "file" else []
        return entries if detail else [e["name"] for e in entries]

    def _open(self, path: str, mode: str = "rb", **options: object) -> io.IOBase:
        bucket, key = self._split(path)
        if mode == "rb":
            try:
                return io.BytesIO(self._buckets.get(bucket, key))
            except OSError:
                raise FileNotFoundError(path) from None
        if mode != "wb":
            raise NotImplementedError(f"{mode!r}: objects cannot be appended to or changed")
        return _Upload(self._buckets, bucket, key)

    def cp_file(self, path1: str, path2: str, **options: object) -> None:
        if self.info(path1)["type"] == "file":
            self._buckets.put(*self._split(path2), self._buckets.get(*self._split(path1)))

    def _rm(self, path: str) -> None:
        self._buckets.delete(*self._split(path))

    def mkdir(self, path: str, create_parents: bool = True, **options: object) -> None: ...

    def makedirs(self, path: str, exist_ok: bool = False) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        bucket, key = self._split(path)
        if recursive:
            for found in list(self._buckets.list(bucket, key + "/")):
                self._buckets.delete(bucket, found.key)
        elif self.info(path)["type"] == "directory":
            raise IsADirectoryError(path)
        try:
            self._buckets.delete(bucket, key)
        except OSError:
            pass


class _Upload(io.BytesIO):
    """What is written becomes an object when it is closed, and not if an error ends the `with`."""

    def __init__(self, buckets: Buckets, bucket: str, key: str):
        super().__init__()
        self._put = lambda content: buckets.put(bucket, key, content)

    def close(self) -> None:
        if not self.closed:
            self._put(self.getvalue())
        super().close()
