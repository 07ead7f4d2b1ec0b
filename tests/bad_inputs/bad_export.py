"""Bad folders and options of export and expo."""

from pathlib import Path

from cases import case, cut, model, without_permission, write

from gopd_jax import tiny
from gopd_jax.runtime.run_folder import FORMAT

BASE, TEACHER = tiny.model("base"), tiny.model("math_teacher")
RUN = {"format": FORMAT, "config": {"student": BASE}, "fingerprints": {}, "starts": []}


def run(folder: Path, **changes) -> Path:
    return write(folder / "run/run.json", RUN | changes).parent


def export(*options: str) -> list[str]:
    return ["--workdir=run", "--out=out", *options]


@case(
    "export",
    "no such folder",
    (
        "'run' holds no run: expected a folder written by gopd_jax.train, but "
        "run/run.json does not exist"
    ),
)
def no_run(folder):
    return export()


@case(
    "export",
    "a folder without a run",
    (
        "'run' holds no run: expected a folder written by gopd_jax.train, but "
        "run/run.json does not exist"
    ),
)
def empty(folder):
    (folder / "run").mkdir()
    return export()


@case(
    "export",
    "a workdir that is a file",
    (
        "'run' holds no run: expected a folder written by gopd_jax.train, but "
        "run/run.json does not exist"
    ),
)
def run_file(folder):
    write(folder / "run", "mine")
    return export()


@case(
    "export",
    "a run without a checkpoint",
    "'run' has no checkpoint: expected a run that has saved one",
)
def no_checkpoint(folder):
    run(folder)
    return export()


@case(
    "export",
    "a run with an empty checkpoints folder",
    "'run' has no checkpoint: expected a run that has saved one",
)
def checkpoints_empty(folder):
    (run(folder) / "checkpoints").mkdir()
    return export()


@case(
    "export",
    "checkpoints that are a file",
    "'run' has no checkpoint: expected a run that has saved one",
)
def checkpoints_file(folder):
    write(run(folder) / "checkpoints", "mine")
    return export()


@case(
    "export",
    "run.json without a student",
    "run/run.json is damaged: expected a text as 'student' of its config, not None",
)
def no_student(folder):
    run(folder, config={})
    return export()


@case(
    "export",
    "run.json whose student is a number",
    "run/run.json is damaged: expected a text as 'student' of its config, not 3",
)
def student_number(folder):
    run(folder, config={"student": 3})
    return export()


@case(
    "export",
    "run.json whose student is gone",
    "no model at './gone': expected a Hugging Face folder or hub id, but there is no such folder",
)
def student_gone(folder):
    run(folder, config={"student": "./gone"})
    return export()


@case(
    "export",
    "run.json of another format",
    (
        "'run' is a run folder of format 99, this version of gopd_jax reads format 3: use"
        " the version that wrote it, or another folder"
    ),
)
def format_other(folder):
    run(folder, format=99)
    return export()


@case(
    "export",
    "run.json of another format whose starts are damaged",
    (
        "'run' is a run folder of format 1, this version of gopd_jax reads format 3: use "
        "the version that wrote it, or another folder"
    ),
)
def format_starts(folder):
    run(folder, format=1, starts=["x"])
    return export()


@case(
    "export",
    "run.json that is a folder",
    "run/run.json is a folder: expected a file with a JSON object",
)
def run_json_folder(folder):
    (folder / "run/run.json").mkdir(parents=True)
    return export()


@case(
    "export",
    "a target that is a file",
    "will not overwrite out: expected a folder that does not exist yet, or an empty one",
)
def target_file(folder):
    run(folder)
    write(folder / "out", "mine")
    return export()


@case(
    "export",
    "a target that is not empty",
    "will not overwrite out: expected a folder that does not exist yet, or an empty one",
)
def target_full(folder):
    run(folder)
    write(folder / "out/mine.txt", "mine")
    return export()


@case(
    "export",
    "a target below a file",
    (
        "--out='file/out/config.json': cannot write there, expected a folder above it, "
        "but 'file' is a file"
    ),
)
def target_below_file(folder):
    run(folder)
    write(folder / "file", "mine")
    return ["--workdir=run", "--out=file/out"]


@case(
    "export",
    "a target that must not be written",
    "cannot write there, expected permission to write to 'locked'",
)
def target_read_only(folder):
    run(folder)
    (folder / "locked").mkdir()
    without_permission(folder / "locked", 0o500)
    return ["--workdir=run", "--out=locked/out"]


@case(
    "export",
    "a target that is the run itself",
    "will not overwrite run: expected a folder that does not exist yet, or an empty one",
)
def target_run(folder):
    run(folder)
    return ["--workdir=run", "--out=run"]


@case(
    "export",
    "a target inside the checkpoints of the run",
    "--out=run/checkpoints/100 is among the checkpoints of the run: expected another place",
)
def target_inside(folder):
    run(folder)
    return ["--workdir=run", "--out=run/checkpoints/100"]


@case(
    "export",
    "a target inside the run",
    "'run' has no checkpoint: expected a run that has saved one",
)
def target_inside_run(folder):
    run(folder)
    return ["--workdir=run", "--out=run/model"]


@case(
    "export",
    "a target on an object store",
    "cannot write to gs://bucket/out: expected a local folder, which you can copy from there",
)
def target_gs(folder):
    run(folder)
    return ["--workdir=run", "--out=gs://bucket/out"]


@case(
    "export",
    "a step that is negative",
    "argument --step: invalid value '-1': expected an integer in [0, 2147483647]",
)
def step_negative(folder):
    return export("--step=-1")


@case(
    "export",
    "an unknown dtype",
    "argument --dtype: invalid choice: 'int8' (choose from 'bfloat16', 'float32')",
)
def dtype(folder):
    return export("--dtype=int8")


def expo(*options: str) -> list[str]:
    return [f"--student={BASE}", f"--teacher={TEACHER}", "--out=out", *options]


@case(
    "expo",
    "a teacher of another shape",
    "--teacher=",
    " is another architecture than --student=",
    ": layers=3, expected",
)
def expo_shape(folder):
    return expo(f"--teacher={tiny.model('large_base')}")


@case("expo", "an alpha that is nan", "--alpha=nan: expected a finite number, such as 0.25 or 0.5")
def expo_nan(folder):
    return expo("--alpha=nan")


@case("expo", "an alpha that is a text", "argument --alpha: invalid float value: 'half'")
def expo_text(folder):
    return expo("--alpha=half")


@case(
    "expo",
    "a target that exists",
    "will not overwrite out: expected a folder that does not exist yet, or an empty one",
)
def expo_target(folder):
    write(folder / "out/mine", "mine")
    return expo()


@case(
    "expo",
    "a target below a file",
    (
        "--out='file/out/config.json': cannot write there, expected a folder above it, "
        "but 'file' is a file"
    ),
)
def expo_below(folder):
    write(folder / "file", "mine")
    return [*expo(), "--out=file/out"]


@case(
    "expo",
    "weights of the teacher cut short",
    "teacher: cannot read model.safetensors, expected a safetensors file",
)
def expo_weights(folder):
    cut(model(folder, "teacher", "math_teacher") / "model.safetensors")
    return [f"--student={BASE}", "--teacher=teacher", "--out=out"]


@case(
    "expo",
    "a student without weights",
    (
        "student: no weights, expected model.safetensors or model.safetensors.index.json;"
        " it holds chat_template.jinja, config.json, generation_config.json,"
    ),
)
def expo_no_weights(folder):
    (model(folder) / "model.safetensors").unlink()
    return ["--student=student", f"--teacher={TEACHER}", "--out=out"]


@case(
    "expo",
    "generation_config.json of the student damaged",
    "student/generation_config.json is damaged: expected a JSON object",
)
def expo_generation(folder):
    cut(model(folder) / "generation_config.json")
    return ["--student=student", f"--teacher={TEACHER}", "--out=out"]
