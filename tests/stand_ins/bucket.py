"""A stand-in for Google Cloud Storage: buckets that are a folder, and the server of its JSON API.

    python tests/stand_ins/bucket.py FOLDER

serves FOLDER at a free port of this host, which it prints. An object is a file named by its whole
key, so that there are no folders, no appending and no renaming, and an object is there whole or
not at all. `gcsfs` beside this file is a client of the same folder; TensorStore, which writes the
arrays of checkpoints, comes over HTTP (TENSORSTORE_GCS_HTTP_URL).
"""

from collections.abc import Iterator
import dataclasses
import datetime
import http.server
import json
import os
from pathlib import Path
import sys
import threading
import urllib.parse


@dataclasses.dataclass(frozen=True)
class Object:
    """An object's metadata: its key in the bucket, its size, and what changes with each write."""

    key: str
    size: int
    generation: int

    @property
    def updated(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.generation / 1e9, datetime.UTC)


class Buckets:
    """The objects of all buckets, in a folder that several processes share."""

    def __init__(self, folder: str | os.PathLike[str]):
        self._folder = Path(folder)

    def _file(self, bucket: str, key: str) -> Path:
        return self._folder / bucket / urllib.parse.quote(key, safe="")

    def put(self, bucket: str, key: str, content: bytes) -> Object:
        file = self._file(bucket, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        written = self._folder / f".{os.getpid()}-{threading.get_ident()}"
        written.write_bytes(content)
        os.replace(written, file)
        return self.info(bucket, key)

    def get(self, bucket: str, key: str) -> bytes:
        return self._file(bucket, key).read_bytes()

    def info(self, bucket: str, key: str) -> Object:
        stat = self._file(bucket, key).stat()
        return Object(key, stat.st_size, stat.st_mtime_ns)

    def delete(self, bucket: str, key: str) -> None:
        self._file(bucket, key).unlink()

    def list(self, bucket: str, prefix: str = "") -> Iterator[Object]:
        folder = self._folder / bucket
        names = os.listdir(folder) if folder.exists() else []
        for key in sorted(urllib.parse.unquote(name) for name in names):
            if key.startswith(prefix):
                yield self.info(bucket, key)


class _Handler(http.server.BaseHTTPRequestHandler):
    """The part of the JSON API that TensorStore and gcsfs use."""

    protocol_version = "HTTP/1.1"
    buckets: Buckets

    def log_message(self, *arguments: object) -> None: ...

    def _parts(self) -> tuple[str, str, dict[str, str]]:
        """Bucket, key ("" for the bucket itself) and query."""
        url = urllib.parse.urlsplit(self.path)
        _, _, rest = url.path.partition("/b/")
        bucket, _, key = rest.partition("/o")
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        return bucket, urllib.parse.unquote(key.removeprefix("/")), query

    def _answer(self, status: int, content: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def _metadata(self, bucket: str, found: Object) -> dict[str, str]:
        when = found.updated.isoformat().replace("+00:00", "Z")
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": found.key,
            "size": str(found.size),
            "generation": str(found.generation),
            "metageneration": "1",
            "etag": str(found.generation),
            "timeCreated": when,
            "updated": when,
        }

    def do_GET(self) -> None:
        bucket, key, query = self._parts()
        if not key:
            return self._list(bucket, query)
        try:
            found = self.buckets.info(bucket, key)
            content = self.buckets.get(bucket, key)
        except FileNotFoundError:
            return self._answer(404)
        if query.get("alt") != "media":
            return self._json(self._metadata(bucket, found))
        if query.get("ifGenerationNotMatch") == str(found.generation):
            return self._answer(304)
        if query.get("ifGenerationMatch", str(found.generation)) != str(found.generation):
            return self._answer(412)
        headers = {"x_goog_generation": found.generation}
        asked = self.headers.get("Range")
        if asked is None:
            return self._answer(200, content, **headers)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin = int(first) if first else len(content) - int(last)  # -N asks for the last N bytes
        part = content[begin : int(last) + 1 if first and last else None]
        headers["Content_Range"] = f"bytes {begin}-{begin + len(part) - 1}/{len(content)}"
        return self._answer(206, part, **headers)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, mark = query.get("prefix", ""), query.get("delimiter", "")
        items, folders = [], set()
        for found in self.buckets.list(bucket, prefix):
            inside, cut = found.key[len(prefix) :], ""
            if mark:
                inside, cut, _ = inside.partition(mark)
            if cut:
                folders.add(prefix + inside + cut)
            elif query.get("startOffset", "") <= found.key < query.get("endOffset", "\U0010ffff"):
                items.append(self._metadata(bucket, found))
        self._json({"kind": "storage#objects", "items": items, "prefixes": sorted(folders)})

    def do_POST(self) -> None:
        bucket, key, query = self._parts()
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = query.get("name", key)
        wanted = query.get("ifGenerationMatch")
        if wanted is not None:
            try:
                is_there = str(self.buckets.info(bucket, key).generation)
            except FileNotFoundError:
                is_there = "0"
            if wanted != is_there:
                return self._answer(412)
        return self._json(self._metadata(bucket, self.buckets.put(bucket, key, content)))

    def do_DELETE(self) -> None:
        bucket, key, _ = self._parts()
        try:
            self.buckets.delete(bucket, key)
        except FileNotFoundError:
            return self._answer(404)
        return self._answer(204)


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that was killed
            super().handle_error(request, address)


def serve(folder: str) -> http.server.ThreadingHTTPServer:
    """A server of the folder, at a free port, that is not yet running."""
    handler = type("Handler", (_Handler,), {"buckets": Buckets(folder)})
    return _Server(("127.0.0.1", 0), handler)


if __name__ == "__main__":
    server = serve(sys.argv[1])
    print(server.server_port, flush=True)
    server.serve_forever()
