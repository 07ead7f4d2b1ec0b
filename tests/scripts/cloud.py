"""A cloud for the scripts of tpu_scripts/: `stand_in_gcloud` on PATH, and what there is in it."""

from collections.abc import Callable, Sequence
import json
import os
from pathlib import Path
import subprocess
import sys
import time

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("GOPD_TEST_SECONDS", "400"))  # at most, on a busy machine
GCLOUD = Path(__file__).parent / "stand_in_gcloud.py"
PLACE = ["--name=tiny", "--project=p", "--zone=z", "--bucket=bucket", "--type=v6e-16"]


class Cloud:
    """Runs scripts in a cloud that is `folder`; `variables` are more of its environment."""

    def __init__(self, folder: Path, **variables: str):
        (folder / "bin").mkdir(parents=True)
        (folder / "vms").mkdir()
        (folder / "bin/gcloud").write_text(f'#!/bin/sh\nexec {sys.executable} {GCLOUD} "$@"\n')
        (folder / "bin/gcloud").chmod(0o755)
        self.folder, self.run_folder = folder, folder / "bucket/bucket/tiny"
        self.environment = os.environ | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "STAND_IN_CLOUD": str(folder),
            "GOPD_RESTART_SECONDS": "0.1",
            "GOPD_LOG_SECONDS": "0.2",
        }
        self.environment |= variables

    def start(self, script: str, *options: str, place: Sequence[str] = PLACE) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(ROOT / "tpu_scripts" / script), *place, *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script: str, *options: str, status: int = 0, place: Sequence[str] = PLACE) -> str:
        """What a script says; the test fails with it unless it ends with `status`."""
        process = self.start(script, *options, place=place)
        said, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == status, said
        return said

    def happens(self, event: str) -> None:
        """`preempt` or `reboot`."""
        command = [sys.executable, str(GCLOUD), event, "tiny"]
        subprocess.run(command, env=self.environment, check=True)

    def close(self) -> None:
        """Ends what still runs."""
        for _ in (self.folder / "slices").glob("tiny.json"):
            self.happens("preempt")

    def calls(self) -> list[str]:
        """What gcloud was asked for, without places: "queued-resources create", "storage cp"."""
        lines = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return [" ".join(c[:2] if c[0] == "storage" else c[2:4]) for c in lines]

    def said(self) -> str:
        """Every log there is, for the message of a failing test."""
        logs = sorted(p for p in self.folder.rglob("*.log") if "compiled" not in p.parts)
        return "\n".join(f"---- {p.relative_to(self.folder)}\n{p.read_text()}" for p in logs)

    def wait(self, is_so: Callable[[], object], seconds: float = SECONDS) -> None:
        """Waits until something is so; the test fails with the logs if it takes too long."""
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)
