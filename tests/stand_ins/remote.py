"""Gives a process gs:// paths that lead to the stand-in for an object store."""

import contextlib
import os
from pathlib import Path
import threading

import bucket

FOLDER = Path(__file__).parent


@contextlib.contextmanager
def served(folder: Path):
    """Serves buckets from `folder`; gives the environment of processes that use them."""
    server = bucket.serve(str(folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "STAND_IN_BUCKETS": str(folder),
            "PYTHONPATH": f"{FOLDER}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{server.server_port}",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        }
    finally:
        server.shutdown()
        server.server_close()
