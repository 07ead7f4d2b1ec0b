"""Command `gopd`: the other commands under one name, each loaded when it is called.

gopd train --config=math     is   python -m gopd_jax.train --config=math
"""

import difflib
import importlib
import sys
from types import ModuleType

import gopd_jax
from gopd_jax import cli
from gopd_jax.runtime.progress import say_error

# Name of a module or folder of gopd_jax -> what the command does.
COMMANDS = {
    "train": "train a student, or resume a run",
    "export": "write the student of a run as a Hugging Face folder",
    "evaluate": "score a model on benchmarks or your own files",
    "report": "compare runs on one HTML page",
    "generate": "draw samples with log-probs from a model",
    "data": "say what a data set holds, and what a run leaves out",
    "check": "check that the models of a run fit together, with their weights",
    "plan": "say whether a run fits a slice that is not here, and what it takes",
    "preview": "say what each lambda would converge to, before any training",
    "benchmark": "measure tokens per second, bytes and compilations",
    "expo": "extrapolate a teacher's weights, without training",
    "reproduce": "repeat the paper's experiments in the embedded world",
}
HELP = f"""\
usage: gopd COMMAND [options]

Generalized on-policy distillation (G-OPD / ExOPD) in JAX.

{chr(10).join(f"  {name:<11}{what}" for name, what in COMMANDS.items())}

  gopd train --config=math     distils an embedded student: minutes on a CPU
  gopd train --help            the presets, and every setting
  gopd COMMAND --help          the options of a command
  gopd --version               the version

`gopd COMMAND` and `python -m gopd_jax.COMMAND` are the same.
"""


def module(name: str) -> ModuleType:
    """The module of a command: `gopd_jax.NAME`, or its `__main__` if it is a folder."""
    found = importlib.import_module(f"gopd_jax.{name}")
    is_folder = hasattr(found, "__path__")
    return importlib.import_module(f"gopd_jax.{name}.__main__") if is_folder else found


def main(argv: list[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name in COMMANDS:
        return module(name).main(rest)
    if name == "--version":
        print(gopd_jax.__version__)
        return cli.DONE
    if name in ("", "-h", "--help"):
        print(HELP, end="", file=sys.stdout if name else sys.stderr)
        return cli.DONE if name else cli.BAD_INPUT
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    say_error(f"no command {name!r}{hint}: expected one of {', '.join(COMMANDS)}; see --help")
    return cli.BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
