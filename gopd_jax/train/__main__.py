"""Trains a student by on-policy distillation (G-OPD / ExOPD), by GRPO, or by SFT.

  python -m gopd_jax.train --config=configs/math.py              the embedded run, minutes on a CPU
  python -m gopd_jax.train --config=configs/math.py:qwen3_4b --workdir=gs://bucket/run
  python -m gopd_jax.train --config=configs/math.py --config.learner.reward_scale=1.5 \\
      --workdir=runs/lambda15

  --config=FILE[:PRESET]      what is run; the file's docstring says claim, hardware, time, result
  --config.PART.FIELD=VALUE   one setting; all of them are listed below
  --workdir=FOLDER            folder of the run, local or gs:// (default: runs/NAME)
  --help                      this text; with --config, also the notes of that file

The folder gets run.json, metrics.jsonl, samples.jsonl, evaluations.jsonl, tensorboard/,
checkpoints/ and, at the end, summary.json and curves.png. The same command again resumes the run,
or says that it is complete. Ctrl-C and SIGTERM end it during rollouts, scoring or an evaluation,
with the last finished step saved. Exit status: 0 done, 2 bad input, 3 numbers that are not finite,
130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import ast
from collections.abc import Sequence
import json
import os
from pathlib import Path
import sys
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from gopd_jax import cli
from gopd_jax.config import Config, from_config_dict, reference
from gopd_jax.runtime.schema import unknown_field

TEMPLATE_KWARGS = "--config.data.template_kwargs."
NEW_NAMES = {"--config.data.enable_thinking": f"{TEMPLATE_KWARGS}enable_thinking"}
EXPECTED = "expected --config=FILE[:PRESET], --config.field=value, --workdir=FOLDER"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        return cli.run(_print_help, arguments)
    logging.set_verbosity(logging.WARNING)  # absl starts at INFO, and Orbax would fill the screen
    stopped = "; nothing was saved since the last checkpoint, from which the same command resumes"
    return cli.run(_train, arguments, stopped=stopped)


def _train(arguments: list[str]) -> None:
    config, workdir = parse(arguments)
    # JAX and transformers take seconds to import; a mistyped field is answered before.
    from gopd_jax.runtime.processes import start_processes
    from gopd_jax.train.run import run

    start_processes()
    run(config, workdir or os.path.join("runs", config.name))


def parse(arguments: Sequence[str]) -> tuple[Config, str]:
    """The config and the workdir of a command line.

    Raises:
        ValueError: an unknown argument, a config file that cannot be read, a field that does not
            exist or does not take the value; one line.
    """
    files = [a for a in arguments if a.startswith("--config=")]
    if "--config" in arguments[:-1]:  # its value is the next argument
        at = arguments.index("--config")
        files = list(arguments[at : at + 2])
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


def _template_kwargs(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The keyword arguments of the chat template in a command line, and its other arguments.

    ml_collections takes only fields that the config file has, and a template has its own names.
    Values are JSON, or a text where that fails. --config.data.enable_thinking, an earlier name, is
    read too.
    """
    kwargs, others = {}, []
    for argument in arguments:
        field, equals, text = argument.partition("=")
        field = NEW_NAMES.get(field, field)
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
        config.value.to_dict()  # a file that could not be read is only reported when it is used
    except SyntaxError as e:
        raise ValueError(f"--config: {e.filename}:{e.lineno}: {e.msg}") from e
    except (KeyError, AttributeError) as e:  # ml_collections quotes its own message, perhaps twice
        message = str(e).replace("\\n", " ").translate({ord(c): None for c in "\\'"})
        raise ValueError(f"--config: {message}") from e
    except OSError as e:
        raise ValueError(f"--config: {str(e).strip().splitlines()[-1].strip()}") from e
    except flags.Error as e:  # an error raised in the config file comes with its traceback
        raise ValueError(str(e).strip().splitlines()[-1].removeprefix("ValueError: ")) from e
    return config.value, workdir.value


def _check_field(path: str, fields: ConfigDict) -> None:
    """Raises ValueError unless the config file defines the field; names the nearest one."""
    where = "config"
    for name in path.split("."):
        if not isinstance(fields, ConfigDict) or name not in fields:
            known = list(fields) if isinstance(fields, ConfigDict) else []
            raise ValueError(f"--{where}.{name}: {unknown_field(name, known)}")
        fields, where = fields.get_ref(name).get(), f"{where}.{name}"


def _print_help(arguments: Sequence[str]) -> None:
    """Usage, the notes of the config file if one is given, and every setting."""
    print(__doc__)
    for argument in arguments:
        if argument.startswith("--config="):
            path = argument.removeprefix("--config=").partition(":")[0]
            notes = ast.get_docstring(ast.parse(Path(path).read_text(encoding="utf-8")))
            print(f"{path}\n\n{notes}\n")
    presets = sorted(Path("configs").glob("*.py"))
    if presets:
        print("Config files here:", ", ".join(map(str, presets)), "\n")
    print(reference())


if __name__ == "__main__":
    sys.exit(main())
