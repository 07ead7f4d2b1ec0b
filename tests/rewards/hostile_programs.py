"""Twelve kinds of hostile programs. None may score, end the judge, or leave anything behind.

Most define a right `f` only if their attack succeeded, so that a reward of 1 is a successful
attack. A generator takes the path of a file outside of the sandbox and yields programs.
"""

import os

from gopd_jax.rewards import verifier

GOOD = "def f(x):\n    return x + 5\n"
WRONG = "def f(x):\n    return 0\n"
SECRET = "the secret 4711"  # the contents of the file outside
SOURCE = verifier.__file__

# `won` lists the ways, Python expressions, that ran without an exception; with `needle`, only those
# whose value contains it.
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
        if os.getpid() != ME:  # a child that must not exist
            os._exit(0)
        if needle is None or needle in str(got):
            won.append(way)
    except BaseException:
        pass
"""
PAYOFF = "\ndef f(x):\n    return x + 5 if won else x\n"


def attack(*ways: str, needle: str | None = None) -> str:
    return TRY + "".join(f"attempt({way!r}, {needle!r})\n" for way in ways) + PAYOFF


THREAD_BOMB = """
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(60,)).start()
"""


def fork_bomb(_):
    yield attack(
        "os.fork()",
        "call(58)",  # vfork
        "subprocess.run(['true'])",
        "os.posix_spawn(sys.executable, ['x'], {})",
        "os.execv('/bin/true', ['x'])",
        "libc.fork() < 1 and 1 / 0",
    )
    yield "import os\nwhile True:\n    os.fork()\n"
    yield THREAD_BOMB


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


CATCHES_EVERYTHING = """
def f(x):
    while True:
        try:
            while True: pass
        except BaseException: pass
"""
IGNORES_SIGNALS = """
for s in range(1, 32): attempt(f'signal.signal({s}, signal.SIG_IGN)')
while True: pass
"""


def infinite_loop(_):
    yield "while True: pass"
    yield CATCHES_EVERYTHING
    yield "import time\ndef f(x):\n    time.sleep(60)\n"
    yield "def f(x):\n    return 9**9**9**9\n"
    yield TRY + IGNORES_SIGNALS


def reading_outside(target):
    outside, folder = str(target), str(target.parent)
    yield attack(f"open({outside!r}).read()", needle=SECRET)
    yield attack(
        f"os.listdir({folder!r})",
        "os.listdir('/')",
        "os.listdir('/proc')",
        f"os.listdir({os.path.dirname(SOURCE)!r})",
    )
    yield attack(
        "open('/etc/passwd').read()",
        f"open({SOURCE!r}).read()",
        f"open('/proc/self/root{SOURCE}').read()",
    )
    yield attack(
        "open(f'/proc/{os.getppid()}/environ', 'rb').read(1)",
        "open(f'/proc/{os.getppid()}/maps', 'rb').read(1)",
        "open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
        "open(f'/proc/{os.getppid()}/cmdline', 'rb').read(1)",
        f"open('/proc/{os.getpid()}/environ').read()",
        "open('/proc/self/environ').read()",
    )
    yield attack(
        "__import__('gopd_jax.config')",
        "os.chroot('.')",
        f"os.link({outside!r}, 'here')",
        f"os.symlink({outside!r}, 'here')",
    )


def writing_outside(target):
    outside, place = str(target), str(target.with_name("written"))
    yield attack(
        f"open({place!r}, 'w')",
        f"os.mkdir({place!r})",
        f"os.mkfifo({place!r})",
        f"os.rename({outside!r}, {place!r})",
        f"os.unlink({outside!r})",
        f"os.truncate({outside!r}, 0)",
        f"os.chmod({outside!r}, 0)",
        f"os.utime({outside!r})",
        "open('/dev/null', 'w')",
        f"os.link({outside!r}, 'here')",
        "os.chmod('.', 0)",
        "open('../here', 'w')",
        "os.mkdir('../here')",
        f"open('mine', 'w').close() or os.rename('mine', {place!r})",
        f"os.replace({outside!r}, 'here')",
        f"os.open({outside!r}, os.O_TRUNC)",
        "os.rename('.', '../here')",
        f"pathlib.Path({place!r}).touch()",
    )


def sockets(_):
    yield attack(
        "socket.socket()",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX)",
        "socket.create_connection(('127.0.0.1', 80), 0.1)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "call(41, 2, 1, 0)",  # socket
        "call(425, 8, bytes(120))",  # io_uring_setup
    )


def signals(_):
    yield attack(
        "os.kill(os.getppid(), 9)",
        "os.kill(-1, 9)",
        "os.killpg(os.getpgid(os.getppid()), 15)",
        "os.kill(os.getppid(), 0)",
        f"os.kill({os.getpid()}, 9)",
        "os.pidfd_open(os.getppid())",
        "call(234, os.getppid(), os.getppid(), 9)",  # tgkill
        "call(101, 16, os.getppid(), 0, 0)",  # ptrace
        # The owner of a descriptor gets a signal of choice when it becomes readable.
        "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
        "fcntl.fcntl(0, fcntl.F_SETSIG, 9)",
        "fcntl.ioctl(socket.socketpair()[0], 0x8901, os.getppid().to_bytes(4, 'little'))",
    )


LIVES_ON = """
def late():
    time.sleep(3)
    won.append(1)
    open({place!r}, 'w')
threading.Thread(target=late, daemon=False).start()
"""
OUTLIVES_ITS_PARENT = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
libc.prctl(1, 0)
while True: time.sleep(1)
"""


def daemonising(target):
    yield attack(
        "os.setsid()",
        "os.setpgid(0, os.getppid())",
        "os.fork() and 0 or os.setsid()",
        "libc.daemon(1, 1) and 1 / 0",
    )
    yield TRY + LIVES_ON.format(place=str(target.with_name("written"))) + PAYOFF
    yield TRY + OUTLIVES_ITS_PARENT


def huge_output(_):
    yield "while True: print('x' * 10**6)"
    yield "import sys\nsys.stdout.write('x' * 10**8)\nsys.stderr.write('x' * 10**8)\n"
    yield "def f(x):\n    return 'x' * 10**8\n"
    yield "import os\ndef f(x):\n    while True: os.write(3, b'0' * 10**6)\n"


EXITS_LATER = """
import atexit, os
atexit.register(os._exit, 0)
def f(x):
    raise KeyboardInterrupt
"""


def exit_tricks(_):
    yield "import os\nos._exit(0)"
    yield "import sys\nsys.exit(0)"
    yield "raise SystemExit(0)"
    yield "import os\ndef f(x):\n    os._exit(0)\n"
    yield "def f(x):\n    raise SystemExit(0)\n"
    yield EXITS_LATER
    yield "import os, signal\ndef f(x):\n    signal.raise_signal(9)\n"
    yield "import os\ndef f(x):\n    os.close(3)\n"
    yield "class Stop(BaseException): pass\ndef f(x):\n    raise Stop\n"


EQUAL = """
class E(int):
    __eq__ = __lt__ = __sub__ = __abs__ = lambda *a: True
    __hash__ = None
def f(x):
    return E()
"""
EQUAL_OBJECT = "class E:\n    def __eq__(self, other): return True\ndef f(x):\n    return E()\n"
PATCHED_BUILTINS = """
import builtins
for name in ('eval', 'exec', 'type', 'all'):
    setattr(builtins, name, lambda *a: True)
"""
NO_PACKAGE = """
import sys
for name in [*sys.modules]:
    if 'gopd' in name: sys.modules[name] = None
"""
PATCHED_WIRE = """
import sys
wire = sys.modules['gopd_jax.rewards.wire']
wire.send = lambda *a, **k: None
wire.encode = lambda *a: True
"""
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
ARRAY_INTERFACE = """
class A:
    __array_interface__ = {'shape': (), 'typestr': '<i8', 'data': (0, False)}
f = lambda x: A()
"""


def patching(_):
    yield EQUAL_OBJECT
    yield EQUAL
    yield PATCHED_BUILTINS + WRONG
    yield NO_PACKAGE + WRONG
    yield PATCHED_WIRE + WRONG
    yield FORGE
    yield "import os\ndef f(x):\n    os.write(3, b'\\0\\0\\0\\4true')\n"
    yield "import os\ndef f(x):\n    os.write(3, b'\\xff\\xff\\xff\\xff')\n"
    yield "print('correct')\nprint('[1.0, \"correct\"]')\ndef f(x):\n    print(True)\n"
    yield ARRAY_INTERFACE


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
