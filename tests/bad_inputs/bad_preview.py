"""Bad options and configs of preview."""

from pathlib import Path

from cases import case, write

MATH = "--config=math"


@case("preview", "no config", "--config must be set: expected --config=FILE[:PRESET]")
def no_config(folder):
    return ["--lambdas=1,1.25"]


@case(
    "preview",
    "lambdas that are not numbers",
    "argument --lambdas: invalid value '1,x': expected different numbers >= 0 with commas",
)
def lambdas_not_numbers(folder):
    return [MATH, "--lambdas=1,x"]


@case("preview", "a lambda below 0", "argument --lambdas: invalid value '-1,1'")
def lambda_below_zero(folder):
    return [MATH, "--lambdas=-1,1"]


@case("preview", "a setting that does not exist", "--config.stops", "did you mean 'steps'")
def unknown_setting(folder):
    return [MATH, "--config.stops=1"]


@case("preview", "--workdir", "--workdir=runs/x: expected --out=FOLDER")
def workdir(folder):
    return [MATH, "--workdir=runs/x"]


@case("preview", "a method without teacher", "config.method='grpo': expected gopd")
def method(folder):
    return ["--config=grpo"]


@case(
    "preview",
    "answers that are not verified",
    "config.domains.math.reward='none': expected one that verifies answers",
)
def not_verified(folder):
    return [MATH, "--config.domains.math.reward=none"]


@case(
    "preview",
    "a teacher that reads more than the student",
    "config.domains.math.teacher_context='{solution}': expected none",
)
def teacher_context(folder):
    return [MATH, "--config.domains.math.teacher_context={solution}"]


@case("preview", "the folder of a run", "--out=run: this is the folder of a run; expected another")
def run_folder(folder: Path):
    write(folder / "run" / "run.json", {})
    return [MATH, "--out=run"]


@case("preview", "a reference that is not there", "gone", "expected")
def no_reference(folder):
    return [MATH, "--config.reference=gone", "--out=out"]
