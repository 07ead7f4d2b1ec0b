"""Bad command lines, config files and folders of `python -m gopd_jax.train`."""

from pathlib import Path

from cases import case, sums, without_permission, write

from gopd_jax import tiny
from gopd_jax.runtime.run_folder import FORMAT
from gopd_jax.train.__main__ import parse
from gopd_jax.train.identity import run_identity

MINE = """
from gopd_jax.config import default, domain

def get_config():
    config = default()
    config.name, config.student = "mine", {student!r}
    files = dict(train="train.jsonl", test="test.jsonl")
    config.domains.math = domain(**files, reward="math", teacher={teacher!r})
    config.data.max_prompt_tokens, config.rollout.max_response_tokens = 40, 20
    config.rollout.prompts_per_step = config.rollout.slots = 2
    {more}
    return config
"""


def config(folder: Path, more: str = "", student: str = "", teacher: str = "") -> str:
    """A config file that can be run, unless `more` or the models are wrong."""
    student, teacher = student or tiny.model("base"), teacher or tiny.model("math_teacher")
    write(folder / "train.jsonl", sums())
    write(folder / "test.jsonl", sums(first=200))
    write(folder / "mine.py", MINE.format(student=student, teacher=teacher, more=more))
    return "--config=mine.py"


@case(
    "train",
    "config file with a syntax error",
    "--config: mine.py:1: invalid syntax; expected Python",
)
def syntax_error(folder):
    write(folder / "mine.py", "def get_config(:\n    pass\n")
    return ["--config=mine.py"]


@case(
    "train",
    "config file that imports a module that is not there",
    "--config: mine.py:1: ModuleNotFoundError: No module named 'no_such_module'",
)
def failing_import(folder):
    write(folder / "mine.py", "import no_such_module\n")
    return ["--config=mine.py"]


@case("train", "config file that raises KeyError", "--config: mine.py:11: KeyError: 'lambda'")
def config_raises(folder):
    return [config(folder, "{}['lambda']"), "--workdir=run"]


@case(
    "train",
    "config file that raises TypeError",
    "--config: mine.py:11: TypeError: object of type 'int' has no len()",
)
def config_raises_type_error(folder):
    return [config(folder, "len(3)"), "--workdir=run"]


@case(
    "train",
    "config file that sets a field that does not exist",
    "config.learner.lamda: no such field. Known fields: ",
)
def config_sets_unknown_field(folder):
    return [config(folder, "config.learner.lamda = 2.0"), "--workdir=run"]


@case(
    "train",
    "config file that sets a field to another type",
    (
        "--config: mine.py:11: TypeError: Could not override field 'steps' (reference). "
        "ten is of original type <class 'str'> and cannot be casted to type"
    ),
)
def config_sets_wrong_type(folder):
    return [config(folder, "config.steps = 'ten'"), "--workdir=run"]


@case("train", "config file with a group mistyped", "field 'domain'; did you mean 'domains'?")
def config_mistypes_a_group(folder):
    return [config(folder, "config.domain.math = 1"), "--workdir=run"]


@case("train", "config file that calls exit()", "--config: mine.py:11: SystemExit: 0")
def config_exits(folder):
    return [config(folder, "raise SystemExit(0)"), "--workdir=run"]


@case(
    "train",
    "config file without get_config",
    "--config=mine.py: no function get_config(): expected one that returns a config",
)
def no_get_config(folder):
    write(folder / "mine.py", "x = 1\n")
    return ["--config=mine.py"]


@case(
    "train",
    "config file whose get_config returns nothing",
    (
        "--config: get_config() returned None: expected a config that begins with "
        "gopd_jax.config.default()"
    ),
)
def get_config_returns_none(folder):
    write(folder / "mine.py", "def get_config():\n    pass\n")
    return ["--config=mine.py"]


@case(
    "train",
    "config file whose get_config returns a plain dict",
    (
        "--config: get_config() returned {'steps': 1}: expected a config that begins with"
        " gopd_jax.config.default()"
    ),
)
def get_config_returns_dict(folder):
    write(folder / "mine.py", "def get_config():\n    return {'steps': 1}\n")
    return ["--config=mine.py"]


@case(
    "train",
    "preset given to a config file that has none",
    "--config: the file has no presets: expected --config=FILE without :PRESET",
)
def preset_not_taken(folder):
    return [config(folder) + ":small", "--workdir=run"]


@case("train", "config file that is a folder", "mine.py")
def config_is_a_folder(folder):
    (folder / "mine.py").mkdir()
    return ["--config=mine.py"]


@case(
    "train",
    "config file that is not text",
    "--config: source code string cannot contain null bytes; expected Python",
)
def config_is_binary(folder):
    write(folder / "mine.py", b"\x00\xff\xfe\x00")
    return ["--config=mine.py"]


@case(
    "train",
    "config file with another suffix than .py",
    "--config=mine.json: no function get_config(): expected one that returns a config",
)
def config_is_json(folder):
    write(folder / "mine.json", {"steps": 1})
    return ["--config=mine.json"]


@case("train", "help for a config file that is not there", "gone.py")
def help_for_a_missing_file(folder):
    return ["--config=gone.py", "--help"]


@case(
    "train",
    "help for a config file with a syntax error",
    "--config: mine.py:1: invalid syntax; expected Python",
)
def help_for_a_broken_file(folder):
    write(folder / "mine.py", "def get_config(:\n    pass\n")
    return ["--config=mine.py", "--help"]


@case("train", "--config= with an empty value", "--config")
def config_empty(folder):
    return ["--config="]


@case("train", "a setting without a value", "Missing value for flag --config.steps")
def setting_without_value(folder):
    return [config(folder), "--config.steps"]


@case(
    "train",
    "a group of settings set to a value",
    "flag --config.learner=3: Failed to parse '3' as a ConfigDict: `3` is not a dict.",
)
def group_set_to_a_value(folder):
    return [config(folder), "--config.learner=3"]


@case(
    "train",
    "a count that no integer of 32 bits holds",
    "config.steps=99999999999999999999: expected a number < 2147483648",
)
def huge_count(folder):
    return [config(folder), "--config.steps=99999999999999999999"]


@case(
    "train", "a tuple with a text in it", "config.rollout.extra_stop_ids.1='x': expected an integer"
)
def text_in_a_tuple(folder):
    return [config(folder), "--config.rollout.extra_stop_ids=(1,'x')"]


@case(
    "train",
    "a stop id that the vocabulary does not have",
    "stop ids [99999] of '",
    "' are outside its vocabulary of 102 ids: expected ids from 0 to 101",
)
def stop_id_outside(folder):
    return [config(folder), "--workdir=run", "--config.rollout.extra_stop_ids=(99999,)"]


@case(
    "train",
    "row_length shorter than a prompt with its response",
    "config.learner.row_length=10: expected >= 60 (prompt + response limit), or 0",
)
def contradicting_lengths(folder):
    return [config(folder), "--config.learner.row_length=10"]


@case(
    "train",
    "both a test set and held_out",
    (
        "config.domains.math.held_out=2.0: expected no other test set, but "
        "config.domains.math.test='test.jsonl'; set one of the two"
    ),
)
def two_test_sets(folder):
    return [config(folder), "--config.domains.math.held_out=2.0"]


@case(
    "train",
    "updates_per_batch that does not divide the rollouts",
    "config.learner.updates_per_batch=3: expected a divisor of the 2 rollouts of a step",
)
def updates_do_not_divide(folder):
    return [config(folder), "--config.learner.updates_per_batch=3"]


@case(
    "train",
    "more warm-up steps than updates",
    "config.learner.warmup_steps=5000: expected fewer than the 50 updates of the run",
)
def warmup_too_long(folder):
    return [config(folder), "--config.learner.warmup_steps=5000"]


@case(
    "train",
    "name of the run that is a path out of runs/",
    "config.name='../../elsewhere': expected a name, which is the folder below runs/",
)
def name_with_slashes(folder):
    return [config(folder), "--config.name=../../elsewhere"]


@case(
    "train",
    "line break in a value",
    "config.method='go\\npd': expected one of 'gopd', 'grpo' or 'sft'",
)
def line_break(folder):
    return [config(folder), "--config.method=go\npd"]


@case(
    "train",
    "workdir that is a file",
    "--workdir='run': cannot write there, expected a folder to write to",
)
def workdir_is_a_file(folder):
    write(folder / "run", "mine")
    return [config(folder), "--workdir=run"]


@case(
    "train",
    "workdir under a file",
    "--workdir='file/run': cannot write there, expected a folder to write to",
)
def workdir_under_a_file(folder):
    write(folder / "file", "mine")
    return [config(folder), "--workdir=file/run"]


@case(
    "train",
    "workdir that must not be written",
    "--workdir='run': cannot write there, expected a folder to write to",
)
def workdir_read_only(folder):
    (folder / "run").mkdir()
    without_permission(folder / "run", 0o500)
    return [config(folder), "--workdir=run"]


@case(
    "train",
    "workdir with a NUL byte",
    "--workdir='a\\x00b': cannot write there, expected a folder to write to",
)
def workdir_with_nul(folder):
    return [config(folder), "--workdir=a\0b"]


@case(
    "train",
    "workdir of another run",
    (
        "run holds another run; resuming it with this command would mix two. Differing: "
        "seed: 3 -> 0 Use another --workdir, or the old values."
    ),
)
def workdir_of_another_run(folder):
    arguments = [config(folder), "--workdir=run"]
    identity = run_identity(parse([*arguments, "--config.seed=3"])[0], {})
    write(folder / "run/run.json", identity | {"format": FORMAT, "starts": []})
    return arguments


@case(
    "train",
    "init_from a folder without a run",
    "'nowhere' holds no run: expected a folder written by gopd_jax.train",
)
def init_from_nothing(folder):
    return [config(folder), "--workdir=run", "--config.init_from=nowhere"]


@case(
    "train", "run.json that is a list", "run/run.json is damaged: expected a JSON object, not '[]'"
)
def run_json_is_a_list(folder):
    write(folder / "run/run.json", "[]")
    return [config(folder), "--workdir=run"]


@case(
    "train",
    "run.json of an older format whose starts are damaged",
    (
        "'run' is a run folder of format 1, this version of gopd_jax reads format 3: use "
        "the version that wrote it, or another folder"
    ),
)
def run_json_bad_starts(folder):
    write(folder / "run/run.json", {"format": 1, "starts": ["x"]})
    return [config(folder), "--workdir=run"]


@case(
    "train",
    "folder of prepared data sets that is a file",
    (
        "--config.data.cache_dir='cache/data': cannot write there, expected a folder "
        "above it, but 'cache' is a file"
    ),
)
def cache_dir_is_a_file(folder):
    write(folder / "cache", "mine")
    return [config(folder), "--workdir=run", "--config.data.cache_dir=cache"]


@case(
    "train",
    "mesh larger than the devices",
    (
        "mesh data=1 fsdp=-1 expert=1 context=1 tensor=64 does not fit 1 devices: the sizes must"
        " multiply to that number; one of them may be -1"
    ),
)
def mesh_too_large(folder):
    return [config(folder), "--workdir=run", "--config.mesh.tensor=64"]
