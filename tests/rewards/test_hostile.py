"""Twelve kinds of hostile programs: each scores 0, the caller scores a right program 1 after it, and nothing remains.

A program defines a right `f` only if its attack succeeded, so a reward of 1 is an attack that got through.
"""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest
from test_verifier import alive, descendants

from gopd_jax.rewards import verifier as rewards
from gopd_jax.rewards.sandbox import landlock
from gopd_jax.rewards.sandbox import process as sandbox
from gopd_jax.rewards.verifier import Verdict, Verifier

ROOT = Path(__file__).parents[2]
TESTS = {"tests": ["f(2) == 7", "f(3) == 8"]}
GOOD = "def f(x):\n    return x + 5\n"
WRONG = "def f(x):\n    return 0\n"
SECRET = "the secret 4711"
SOURCE = rewards.__file__
needs_landlock = pytest.mark.skipif(
    landlock.version() < 1, reason="needs Landlock: Linux 5.13 or newer"
)

# `won`: did any of the ways, Python expressions, get through without an exception? With `needle`: and give what holds it?
TRY = """
import ctypes, fcntl, os, pathlib, signal, socket, subprocess, sys, tempfile, threading, time
ME = os.getpid()
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno())
def fill(file):
    for _ in range(100):
        file.write(bytes(1 << 20))
        file.flush()
def nest():
    for _ in range(2000):
        os.mkdir('deep')
        os.chdir('deep')
won, needle = [], None
def attempt(way, needle=needle):
    try:
        got = eval(way)
        if os.getpid() != ME:  # a child that should not be
            os._exit(0)
        if needle is None or needle in str(got):
            won.append(way)
    except BaseException:
        pass
"""
PAYOFF = "\ndef f(x):\n    return x + 5 if won else x\n"


def attack(*ways: str, needle: str | None = None) -> str:
    return TRY + "".join(f"attempt({way!r}, {needle!r})\n" for way in ways) + PAYOFF


def fork_bomb(_):
    ways = ["os.fork()", "call(58)", "subprocess.run(['true'])"]
    yield attack(
        *ways,
        "os.posix_spawn(sys.executable, ['x'], {})",
        "os.execv('/bin/true', ['x'])",
        "libc.fork() < 1 and 1 / 0",
    )
    yield "import os\nwhile True:\n    os.fork()\n"
    yield "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(60,)).start()\n"


def memory(_):
    yield "a = []\nwhile True: a.append(bytearray(10**7))"
    yield "def f(x):\n    return [x] * 10**10\n"
    yield "import mmap\na = [mmap.mmap(-1, 1 << 28) for _ in range(100)]\n" + GOOD
    yield "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n" + GOOD


def disk_filling(target):
    yield attack(
        "fill(open('big', 'wb'))",
        "fill(tempfile.TemporaryFile())",
        "[open(f'part{i}', 'wb').write(bytes(1 << 20)) for i in range(100)]",
        "[os.mkdir(f'many{i}') for i in range(2000)]",
        f"open({str(target)!r}, 'ab').write(b'x')",
        "open('/dev/shm/big', 'wb').write(b'x')",
        "os.ftruncate(os.memfd_create('big'), 1 << 40)",
        "os.posix_fallocate(0, 0, 1 << 40)",
        "nest()",
    )


def infinite_loop(_):
    yield "while True: pass"
    yield "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n"
    yield "import time\ndef f(x):\n    time.sleep(60)\n"
    yield "def f(x):\n    return 9**9**9**9\n"
    yield (
        TRY
        + "for s in range(1, 32): attempt(f'signal.signal({s}, signal.SIG_IGN)')\nwhile True: pass"
    )


def reading_outside(target):
    ways = [
        f"open({str(target)!r}).read()",
        f"os.readlink({str(target.parent / 'link')!r})",
        f"os.listdir({str(target.parent)!r})",
    ]
    yield attack(*ways[:1], needle=SECRET)
    yield attack(
        ways[2],
        "os.listdir('/')",
        "os.listdir('/proc')",
        f"os.listdir({os.path.dirname(SOURCE)!r})",
    )
    yield attack(
        "open('/etc/passwd').read()",
        f"open({SOURCE!r}).read()",
        f"open('/proc/self/root{SOURCE}').read()",
    )
    parents = [
        f"open(f'/proc/{{os.getppid()}}/{name}', 'rb').read(1)"
        for name in ("environ", "maps", "mem", "cmdline")
    ]
    yield attack(
        *parents, f"open('/proc/{os.getpid()}/environ').read()", "open('/proc/self/environ').read()"
    )
    yield attack(
        "__import__('gopd_jax.config')",
        "os.chroot('.')",
        f"os.link({str(target)!r}, 'here')",
        f"os.symlink({str(target)!r}, 'here')",
    )


def writing_outside(target):
    place = str(target.with_name("written"))
    ways = [
        f"open({place!r}, 'w')",
        f"os.mkdir({place!r})",
        f"os.mkfifo({place!r})",
        f"os.rename({str(target)!r}, {place!r})",
    ]
    ways += [
        f"os.unlink({str(target)!r})",
        f"os.truncate({str(target)!r}, 0)",
        f"os.chmod({str(target)!r}, 0)",
    ]
    ways += [
        f"os.utime({str(target)!r})",
        "open('/dev/null', 'w')",
        f"os.link({str(target)!r}, 'here')",
        "os.chmod('.', 0)",
    ]
    ways += [
        "open('../here', 'w')",
        "os.mkdir('../here')",
        f"open('mine', 'w').close() or os.rename('mine', {place!r})",
    ]
    ways += [
        f"os.replace({str(target)!r}, 'here')",
        f"os.open({str(target)!r}, os.O_TRUNC)",
        "os.rename('.', '../here')",
    ]
    yield attack(*ways, f"pathlib.Path({place!r}).touch()")


def sockets(_):
    ways = [
        "socket.socket()",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX)",
    ]
    ways += [
        "socket.create_connection(('127.0.0.1', 80), 0.1)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    ]
    yield attack(*ways, "call(41, 2, 1, 0)", "call(425, 8, bytes(120))")  # socket, io_uring_setup


def signals(_):
    ways = [
        "os.kill(os.getppid(), 9)",
        "os.kill(-1, 9)",
        "os.killpg(os.getpgid(os.getppid()), 15)",
        "os.kill(os.getppid(), 0)",
    ]
    ways += [
        f"os.kill({os.getpid()}, 9)",
        "os.pidfd_open(os.getppid())",
        "call(234, os.getppid(), os.getppid(), 9)",
    ]
    ways += ["call(101, 16, os.getppid(), 0, 0)"]  # ptrace
    # A descriptor whose owner gets a signal of choice when it can be read
    ways += ["fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", "fcntl.fcntl(0, fcntl.F_SETSIG, 9)"]
    ways += ["fcntl.ioctl(socket.socketpair()[0], 0x8901, os.getppid().to_bytes(4, 'little'))"]
    yield attack(*ways)


def daemonising(target):
    yield attack(
        "os.setsid()",
        "os.setpgid(0, os.getppid())",
        "os.fork() and 0 or os.setsid()",
        "libc.daemon(1, 1) and 1 / 0",
    )
    lives_on = f"def late():\n    time.sleep(3)\n    won.append(1)\n    open({str(target.with_name('written'))!r}, 'w')\n"
    yield TRY + lives_on + "threading.Thread(target=late, daemon=False).start()" + PAYOFF
    yield (
        TRY
        + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nlibc.prctl(1, 0)\n"
        + "while True: time.sleep(1)\n"
    )


def huge_output(_):
    yield "while True: print('x' * 10**6)"
    yield "import sys\nsys.stdout.write('x' * 10**8)\nsys.stderr.write('x' * 10**8)\n"
    yield "def f(x):\n    return 'x' * 10**8\n"
    yield "import os\ndef f(x):\n    while True: os.write(3, b'0' * 10**6)\n"


def exit_tricks(_):
    yield "import os\nos._exit(0)"
    yield "import sys\nsys.exit(0)"
    yield "raise SystemExit(0)"
    yield "import os\ndef f(x):\n    os._exit(0)\n"
    yield "def f(x):\n    raise SystemExit(0)\n"
    yield "import atexit, os\natexit.register(os._exit, 0)\ndef f(x):\n    raise KeyboardInterrupt\n"
    yield "import os, signal\ndef f(x):\n    signal.raise_signal(9)\n"
    yield "import os\ndef f(x):\n    os.close(3)\n"
    yield "class Stop(BaseException): pass\ndef f(x):\n    raise Stop\n"


EQUAL = "class E(int):\n    __eq__ = __lt__ = __sub__ = __abs__ = lambda *a: True\n    __hash__ = None\n"
FORGE = """
import gc, sys
def f(x):
    for o in gc.get_objects():
        if type(o) is dict and "value" in o:
            o["value"] = True
    frame = sys._getframe()
    while frame:
        for name, value in frame.f_locals.items():
            if isinstance(value, dict) and "tests" in value:
                return eval(value["tests"][0].split("==")[1])
        frame = frame.f_back
    return x
"""


def patching(_):
    yield "class E:\n    def __eq__(self, other): return True\ndef f(x):\n    return E()\n"
    yield EQUAL + "def f(x):\n    return E()\n"
    names = "('eval', 'exec', 'type', 'all')"
    yield f"import builtins\nfor name in {names}:\n    setattr(builtins, name, lambda *a: True)\n{WRONG}"
    yield f"import sys\nfor name in [*sys.modules]:\n    if 'gopd' in name: sys.modules[name] = None\n{WRONG}"
    mute = "import sys\nwire = sys.modules['gopd_jax.rewards.wire']\nwire.send = lambda *a, **k: None\n"
    yield f"{mute}wire.encode = lambda *a: True\n{WRONG}"
    yield FORGE
    yield "import os\ndef f(x):\n    os.write(3, b'\\0\\0\\0\\4true')\n"
    yield "import os\ndef f(x):\n    os.write(3, b'\\xff\\xff\\xff\\xff')\n"
    yield "print('correct')\nprint('[1.0, \"correct\"]')\ndef f(x):\n    print(True)\n"
    yield "class A:\n    __array_interface__ = {'shape': (), 'typestr': '<i8', 'data': (0, False)}\nf = lambda x: A()\n"


TWELVE = {
    "fork bomb": fork_bomb,
    "memory": memory,
    "disk filling": disk_filling,
    "infinite loop": infinite_loop,
    "reading outside": reading_outside,
    "writing outside": writing_outside,
    "sockets": sockets,
    "signals to the parent": signals,
    "daemonising": daemonising,
    "huge output": huge_output,
    "exit tricks": exit_tricks,
    "patching the checker": patching,
}


@pytest.fixture(scope="module")
def verify():
    with Verifier(timeout_s=0.7, memory_mb=256) as verifier:
        yield verifier


@pytest.fixture
def target(tmp_path):
    """A file outside, with a secret in it, which must stay as it is."""
    path = tmp_path / "target"
    path.write_text(SECRET)
    return path


@pytest.mark.parametrize("name", TWELVE)
def test_scores_zero_and_leaves_nothing(verify, target, name):
    if name == "reading outside" and landlock.version() < 1:
        pytest.skip("needs Landlock: Linux 5.13 or newer")
    assert verify([("code", f"{GOOD}# before {name}", json.dumps(TESTS))]) == [
        Verdict(1.0, "correct")
    ]
    before = descendants(os.getpid())
    for number, program in enumerate(TWELVE[name](target)):
        verdict = verify([("code", program, json.dumps(TESTS))])[0]
        assert verdict.reward == 0.0, f"{name} {number} got through: {program}"
        assert not verdict.detail.startswith("error: Syntax"), program
        assert verify([("code", f"{GOOD}# after {name} {number}", json.dumps(TESTS))]) == [
            Verdict(1.0, "correct")
        ]
    assert target.read_text() == SECRET and [path.name for path in target.parent.iterdir()] == [
        "target"
    ]
    workers = descendants(os.getpid())
    assert not alive(workers - before), "a process of a program is left"
    assert alive(workers) == alive(before), "a worker had to be replaced"
    assert (
        verify([("code", f"import os\nassert os.listdir() == []\n{GOOD}", json.dumps(TESTS))])[
            0
        ].reward
        == 1.0
    )


def test_huge_output_of_a_script(verify):
    spec = {"stdin_stdout": {"inputs": [""], "outputs": ["7"]}}
    verdict = verify([("code", "while True: print('x' * 1000)", json.dumps(spec))])[0]
    assert verdict == Verdict(0.0, "error: output above 16 MiB")


def test_a_script_does_not_fill_the_file_that_is_its_input(verify):
    spec = {"stdin_stdout": {"inputs": ["a"], "outputs": ["done"]}}
    program = "import os\nfor _ in range({}):\n    os.write(0, bytes(1 << 20))\nprint('done')"
    assert verify([("code", program.format(100), json.dumps(spec))]) == [
        Verdict(0.0, "error: OSError")
    ]


@needs_landlock
def test_programs_can_use_what_they_need(verify):
    """The Python installation stays readable: modules that nobody imported before, installed packages, data of the zones."""
    spec = {"asserts": "assert f() == [2, '{}', 3.0]"}
    program = "import sqlite3, json.tool, colorsys, numpy\ndef f():\n    return [len('ab'), json.dumps({}), numpy.mean([2, 4])]\n"
    assert verify([("code", program, json.dumps(spec))]) == [Verdict(1.0, "correct")]


WRITES = """
import os, shutil, sqlite3, tempfile
assert os.listdir() == [] and tempfile.gettempdir() == os.getcwd()
with open("a", "w") as file:
    file.write("xyz")
os.makedirs("b/c")
os.rename("a", "b/c/a")
os.truncate("b/c/a", 2)
with tempfile.TemporaryDirectory() as folder, sqlite3.connect(folder + "/base") as base:
    base.execute("create table t (a)")
shutil.copyfile("b/c/a", "d")
os.remove("d")
def f(x):
    return x + 3 + len(open("b/c/a").read())
"""


def has_scratch(folder: Path) -> bool:
    program = "import sys; from gopd_jax.rewards.scratch import Scratch; Scratch(sys.argv[1])"
    return (
        subprocess.run(
            [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True
        ).returncode
        == 0
    )


def test_programs_write_in_a_folder_of_their_own(verify, tmp_path):
    if not has_scratch(tmp_path):
        pytest.skip("needs user namespaces and Landlock of version 3")
    for number in range(3):  # the second one finds nothing of the first
        assert verify([("code", f"{WRITES}# {number}", json.dumps(TESTS))]) == [
            Verdict(1.0, "correct")
        ]


JUDGE = """
import json, sys, time
from gopd_jax.rewards import code, scratch
scratch.LANDLOCK_VERSION = int(sys.argv[1])
judge = code.Judge(256)
def score(program):
    return judge(program, json.dumps({"tests": ["f(2) == 7"]}), time.monotonic() + 5)[0]
good = "def f(x): return x + 5"
print(judge.guards["scratch"], score(good), score("open('a', 'w')\\n" + good), score(good))
"""


@pytest.mark.parametrize("version", [3, 1000])
def test_where_there_is_no_such_folder_nothing_is_written_and_none_is_left(version, tmp_path):
    able = version == 3 and has_scratch(tmp_path)
    command = [sys.executable, "-c", JUDGE, str(version)]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert run.stdout.split() == [str(able), "1.0", str(float(able)), "1.0"]
    until = time.monotonic() + 10  # the fork server goes when it sees that its judge has gone
    while any(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(tmp_path.iterdir())


RESTRICTED = """
import os, pathlib, sys
from gopd_jax.rewards import landlock
folder = pathlib.Path(sys.argv[1])
ruleset = landlock.rules([str(folder / "in"), str(folder / "absent")], int(sys.argv[2]))
assert ruleset is not None and landlock.restrict(ruleset) and (folder / "in/a").read_text() == "x"
for path, mode in (("b", "r"), ("in/c", "w"), ("in/a", "w")):
    try:
        open(folder / path, mode)
    except PermissionError:
        continue
    os._exit(1)
"""


@pytest.mark.parametrize("abi", range(1, landlock.version() + 1))
def test_every_version_of_landlock(abi, tmp_path):
    """Older kernels know fewer rights: what they know is refused all the same."""
    (tmp_path / "in").mkdir()
    for name in ("in/a", "b"):
        (tmp_path / name).write_text("x")
    subprocess.run(
        [sys.executable, "-c", RESTRICTED, str(tmp_path), str(abi)], check=True, cwd=ROOT
    )


def test_the_projects_own_folder_is_cut_out_of_a_readable_one(tmp_path, monkeypatch):
    for name in ("site-packages/gopd_jax/data", "site-packages/numpy", "site-packages/other"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(landlock.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(landlock.sys, "path", [])
    found = landlock.readable(str(tmp_path / "site-packages/gopd_jax"))
    mine = sorted(path for path in found if path.startswith(str(tmp_path)))
    assert mine == [str(tmp_path / "site-packages/numpy"), str(tmp_path / "site-packages/other")]


def test_a_machine_without_guards_says_so_once(caplog):
    rewards._warn_once.cache_clear()
    for _ in range(2):
        rewards._warn({"seccomp": True, "landlock": False, "scratch": True})
    assert (
        caplog.text.count("no Landlock on this machine") == 1
        and "system-call filter" not in caplog.text
    )


SIGNAL = """
import fcntl, os, signal, socket, sys
from gopd_jax.rewards import seccomp
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
    """Landlock refuses it too, from version 6 on; the system-call filter must not depend on that."""
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        subprocess.run([sys.executable, "-c", SIGNAL, str(victim.pid)], cwd=ROOT, check=True)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_the_package_that_is_hidden_is_this_one():
    assert Path(rewards.code._PACKAGE, "rewards", "sandbox.py") == Path(sandbox.__file__)
