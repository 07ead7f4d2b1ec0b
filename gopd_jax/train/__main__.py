"""Trains a student by on-policy distillation (G-OPD / ExOPD), by GRPO, or by SFT.

  python -m gopd_jax.train --config=math              the embedded run, minutes on a CPU
  python -m gopd_jax.train --config=math:qwen3_4b --workdir=gs://bucket/run
  python -m gopd_jax.train --config=math --config.learner.reward_scale=1.5 --workdir=runs/lambda15
  python -m gopd_jax.train --config=mine.py           a config file of your own

  --config=FILE[:PRESET]      what is run: a name of the list below, or a .py file of yours
  --config.PART.FIELD=VALUE   one setting; all of them are listed at the end
  --workdir=FOLDER            folder of the run, local or gs:// (default: runs/NAME)
  --coordinator=HOST:PORT     several processes, mostly one per host: where process 0 is met,
  --processes=N --process=I   how many there are, and which this one is, from 0; the environment
                              may say it: GOPD_COORDINATOR, GOPD_PROCESSES, GOPD_PROCESS. With
                              GOPD_DISTRIBUTED=1, a TPU slice, Slurm or Open MPI does
  --json                      print summary.json on stdout at the end; the rest goes to stderr
  --verbose                   say which kernels are chosen and what is compiled
  --help                      this text; with --config, what that file is and sets

The folder gets run.json, metrics.jsonl, samples.jsonl, evaluations.jsonl, tensorboard/,
checkpoints/ and, at the end, summary.json and curves.png. --config.log.trackers=wandb or trackio
shows the run there. The same command again resumes the run,
or says that it is complete. Ctrl-C and SIGTERM end it during rollouts, scoring or an evaluation,
with the last finished step saved. Exit status: 0 done, 2 bad input, 3 numbers that are not finite,
4 another process is gone, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from collections.abc import Sequence
import json
import os
import re
import sys
import traceback
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from gopd_jax import cli
from gopd_jax.config import Config, from_config_dict, reference
from gopd_jax.runtime.errors import brief
from gopd_jax.runtime.joining import find_place, split_options
from gopd_jax.runtime.progress import tell
from gopd_jax.runtime.schema import unknown_field
from gopd_jax.train import config_files

UNREAD = "Configuration is not available because of an earlier failure to load: "
TEMPLATE_KWARGS = "--config.data.template_kwargs."
RENAMED = {"data.enable_thinking": "data.template_kwargs.enable_thinking"}
STOPPED = "; nothing was saved since the last checkpoint, from which the same command resumes"
_NEAREST = re.compile(r'Did you mean "(\w+)" instead of "(\w+)"')
_NOT_A_VALUE = {  # how the message of absl begins: what it wants
    "invalid literal for int()": "an integer",
    "could not convert string to float": "a number",
    "('Non-boolean argument": "true or false",
}
A_CONFIG = "a config that begins with gopd_jax.config.default()"
EXPECTED = "expected --config=FILE[:PRESET], --config.field=value, --workdir=FOLDER"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        return cli.run(_print_help, arguments)
    return cli.run(_train, arguments, stopped=STOPPED)


def _train(arguments: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # what ml_collections warns of is an error here
    given = set(arguments)
    options, arguments = split_options(arguments)
    config, workdir = parse([a for a in arguments if a not in ("--json", "--verbose")])
    place = find_place(options)
    tell(details="--verbose" in given, as_json="--json" in given)
    logging.set_verbosity(logging.WARNING)  # absl starts at INFO, and Orbax would fill the screen
    # JAX and transformers take seconds to import; a mistyped field is answered before.
    with cli.importing(STOPPED):
        from gopd_jax.runtime.compilation_cache import use_compilation_cache
        from gopd_jax.runtime.processes import start_processes
        from gopd_jax.train.run import run

    start_processes(place)
    use_compilation_cache(config.compilation_cache)
    run(config, workdir or os.path.join("runs", config.name))


def parse(arguments: Sequence[str]) -> tuple[Config, str]:
    """The config and the workdir of a command line.

    Raises:
        ValueError: an unknown argument, a config file that cannot be read, a field that does not
            exist or does not take the value; one line.
    """
    arguments = _with_paths(arguments)
    files = [a for a in arguments if a.startswith("--config=")]
    if not files:
        raise ValueError(f"--config must be set: {EXPECTED}")
    kwargs, arguments = _template_kwargs(arguments)
    fields, _ = _flags(files)  # of the file alone, to name what an option gets wrong
    for argument in arguments:
        if argument.startswith("--config."):
            _check_field(argument.removeprefix("--config.").partition("=")[0], fields)
    config, workdir = _flags(arguments)
    with config.unlocked(), config.ignore_type():
        for name, value in kwargs.items():
            config.data.template_kwargs[name] = value
    return from_config_dict(config), workdir


def _with_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--config=PATH[:PRESET]` for `--config=NAME` and `--config NAME`."""
    given = list(arguments)
    if "--config" in given[:-1]:  # its value is the next argument
        at = given.index("--config")
        given[at : at + 2] = [f"--config={given[at + 1]}"]
    prefix = "--config="
    return [
        prefix + config_files.resolve(a.removeprefix(prefix)) if a.startswith(prefix) else a
        for a in given
    ]


def _template_kwargs(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The keyword arguments of the chat template in a command line, and its other arguments.

    ml_collections takes only fields that the config file has, and a template has its own names.
    Values are JSON, or a text where that fails.
    """
    kwargs, others = {}, []
    for argument in arguments:
        field, equals, text = argument.partition("=")
        if not field.startswith(TEMPLATE_KWARGS):
            others.append(argument)
            continue
        text = text if equals else "true"
        try:
            value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
        except ValueError:
            value = text
        kwargs[field.removeprefix(TEMPLATE_KWARGS)] = value
    return kwargs, others


def _flags(arguments: Sequence[str]) -> tuple[ConfigDict, str]:
    """The config file's fields with the overrides of the command line, and the workdir."""
    values = flags.FlagValues()
    command = ["gopd_jax.train", *arguments]
    config = config_flags.DEFINE_config_file(
        "config", None, "Config file and preset.", flag_values=values, sys_argv=command
    )
    workdir = flags.DEFINE_string("workdir", "", "Folder of the run.", flag_values=values)
    try:
        rest = values(command)[1:]
        if rest:
            raise ValueError(f"unknown arguments {' '.join(rest)}: {EXPECTED}")
        if not isinstance(config.value, ConfigDict):
            getattr(config.value, "to_dict", None)  # a file that cannot be read is reported by use
            raise ValueError(
                f"--config: get_config() returned {config.value!r:.60}: expected {A_CONFIG}"
            )
    except ValueError:
        raise
    except (Exception, SystemExit) as e:
        raise ValueError(_refusal(e, arguments)) from e
    return config.value, workdir.value


def _refusal(error: BaseException, arguments: Sequence[str]) -> str:
    """What is wrong with the config file or with an option, in one line."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}: " if error.lineno else ""
        return f"--config: {place}{error.msg}; expected Python"
    files = {a.removeprefix("--config=").partition(":")[0] for a in arguments}
    cause: BaseException | None = error
    while cause is not None:  # absl and ml_collections raise errors of their own
        lines = [f for f in traceback.extract_tb(cause.__traceback__) if f.filename in files]
        if lines and not isinstance(cause, ValueError):
            where = f"{lines[-1].filename}:{lines[-1].lineno}"
            if near := _NEAREST.search(str(cause)):  # ml_collections quotes this twice
                return f"--config: {where}: no such field {near[2]!r}; did you mean {near[1]!r}?"
            return f"--config: {where}: {type(cause).__name__}: {brief(cause)}"
        cause = cause.__context__
    if re.search(r"has no attribute\W+get_config", str(error)):
        name = ", ".join(files)
        return f"--config={name}: no function get_config(): expected one that returns {A_CONFIG}"
    if isinstance(error, (KeyError, AttributeError)):
        # ml_collections quotes its own message, perhaps twice
        message = str(error).replace("\\n", " ").translate({ord(c): None for c in "\\'"})
        return f"--config: {message}"
    last = (str(error).strip() or repr(error)).splitlines()[-1].strip()
    if "get_config() takes 0 positional arguments" in last:
        return "--config: the file has no presets: expected --config=FILE without :PRESET"
    if isinstance(error, flags.UnrecognizedFlagError):
        field = f"--config.{error.flagname}"
        near = f"; did you mean {field}?" if error.flagname in Config.__dataclass_fields__ else ""
        return f"--{error.flagname}: no such option{near or ': ' + EXPECTED}"
    if isinstance(error, flags.IllegalFlagValueError):
        field, _, reason = last.removeprefix("flag ").partition(": ")
        for begin, expected in _NOT_A_VALUE.items():
            if reason.startswith(begin):
                return f"{field}: expected {expected}"
    if isinstance(error, flags.Error):  # an error of the config file comes with its traceback
        return last.removeprefix("ValueError: ")
    return f"--config: {last.removeprefix(UNREAD)}"


def _check_field(path: str, fields: ConfigDict) -> None:
    """Raises ValueError unless the config file defines the field; names the nearest one."""
    if path in RENAMED:
        raise ValueError(f"--config.{path}: expected its new name, --config.{RENAMED[path]}")
    where = "config"
    for name in path.split("."):
        if not isinstance(fields, ConfigDict) or name not in fields:
            known = list(fields) if isinstance(fields, ConfigDict) else []
            raise ValueError(f"--{where}.{name}: {unknown_field(name, known)}")
        fields, where = fields.get_ref(name).get(), f"{where}.{name}"


def _print_help(arguments: Sequence[str]) -> None:
    """Usage, what the given config file is and sets (else which there are), and every setting."""
    files = [a for a in _with_paths(arguments) if a.startswith("--config=")]
    parts = [cli.as_started(__doc__)]
    for argument in files:
        config, _ = _flags([argument])
        text = config_files.description(argument.removeprefix("--config="), config)
        parts += [cli.as_started(text), ""]
    parts += [] if files else [config_files.catalog(), ""]
    print("\n".join([*parts, reference()]))


if __name__ == "__main__":
    sys.exit(main())
