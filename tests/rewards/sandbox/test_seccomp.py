"""The system-call filter on its own, where Landlock does not help."""

from pathlib import Path
import signal
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[3]
SENDS_SIGNAL = """
import fcntl, os, signal, socket, sys
from gopd_jax.rewards.sandbox import seccomp
assert seccomp.install()
one, other = socket.socketpair()
try:
    fcntl.fcntl(one, fcntl.F_SETOWN, int(sys.argv[1]))
    fcntl.fcntl(one, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC)
    other.send(b"x")
except OSError:
    pass
"""


@pytest.mark.skipif(not hasattr(signal, "SIGIO"), reason="Linux")
def test_no_signal_by_a_descriptor_without_landlock():
    """Landlock refuses it too from version 6 on; the filter must not depend on that."""
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        command = [sys.executable, "-c", SENDS_SIGNAL, str(victim.pid)]
        subprocess.run(command, cwd=ROOT, check=True)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
