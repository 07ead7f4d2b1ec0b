"""Bad problems, options and outputs of evaluate."""

from pathlib import Path

from cases import case, sums, write

from gopd_jax import tiny

BASE = f"--model={tiny.model('base')}"


def evaluate(folder: Path, problems, *options: str) -> list[str]:
    write(folder / "mine.jsonl", problems)
    given = [
        BASE,
        "--suite=mine.jsonl",
        "--out=out",
        "--samples-per-prompt=2",
        "--max-response-tokens=8",
    ]
    return [*given, "--verifier-workers=1", *options]


@case(
    "evaluate",
    "an unknown benchmark",
    "--suite=aime99: no benchmark 'aime99'; nearest: 'aime25'; expected some of math",
)
def unknown_suite(folder):
    return [BASE, "--suite=aime99", "--out=out"]


@case(
    "evaluate",
    "a benchmark by name without --benchmark-dir",
    "aime24: expected --benchmark-dir=FOLDER, the folder that holds aime24.jsonl",
)
def no_data(folder):
    return [BASE, "--suite=aime24", "--out=out"]


@case(
    "evaluate",
    "--benchmark-dir that is a file",
    (
        "aime24: no such file: data/aime24.jsonl; looked for aime24.jsonl, "
        "aime24.jsonl.gz in --benchmark-dir=data"
    ),
)
def data_is_a_file(folder):
    write(folder / "data", "mine")
    return [BASE, "--suite=aime24", "--benchmark-dir=data", "--out=out"]


@case("evaluate", "an empty suite", "--suite=: no benchmark ''", "expected some of math")
def suite_empty(folder):
    return [BASE, "--suite=", "--out=out"]


@case(
    "evaluate",
    "a problem file that is not there",
    "--suite=gone.jsonl: no such file: gone.jsonl, expected problems",
)
def no_problems(folder):
    return [BASE, "--suite=gone.jsonl", "--out=out"]


@case(
    "evaluate",
    "a problem without a ground truth",
    (
        "mine.jsonl:5: no ground truth: expected one of ground_truth, "
        "reward_model.ground_truth, answer, or the fields of another known format (own,"
    ),
)
def no_truth(folder):
    return evaluate(folder, [*sums(), {"prompt": "1+1"}])


@case(
    "evaluate",
    "a ground truth that is not a test specification",
    (
        "mine.jsonl: prompt 'mine/000000': code ground truth '200' is int: expected an "
        "object with one or more of"
    ),
)
def not_code(folder):
    return evaluate(folder, sums(), "--reward=code")


@case(
    "evaluate",
    "a reward function that fails for the first problem",
    "reward 'judge:f' returned None for prompt 'mine/000000'",
)
def reward_of_nothing(folder):
    write(folder / "judge.py", "def f(record, answer):\n    pass\n")
    return evaluate(folder, sums(), "--reward=judge:f")


@case(
    "evaluate",
    "the same problem file under two paths",
    (
        "--suite=mine.jsonl,a/mine.jsonl: mine.jsonl and a/mine.jsonl are both 'mine': "
        "expected each name once"
    ),
)
def twice(folder):
    write(folder / "a/mine.jsonl", sums())
    return [*evaluate(folder, sums()), "--suite=mine.jsonl,a/mine.jsonl"]


@case(
    "evaluate",
    "an output folder that is a file",
    (
        "--out='out/samples.jsonl': cannot write there, expected a folder above it, but "
        "'out' is a file"
    ),
)
def out_file(folder):
    write(folder / "out", "mine")
    return evaluate(folder, sums())


@case(
    "evaluate",
    "an output folder with samples of another program",
    "--out=out/samples.jsonl is taken, and its settings cannot be read from out/results.json",
)
def out_other(folder):
    write(folder / "out/samples.jsonl", "mine\n")
    return evaluate(folder, sums())


@case(
    "evaluate",
    "an output folder with results, but without samples",
    "--out=out/samples.jsonl is taken, and its settings cannot be read from out/results.json",
)
def out_results_only(folder):
    write(folder / "out/results.json", {"complete": True, "mine": 1})
    return evaluate(folder, sums())


@case(
    "evaluate",
    "an output folder that holds a run",
    "--out=out/samples.jsonl is taken, and its settings cannot be read from out/results.json",
)
def out_run(folder):
    write(folder / "out/samples.jsonl", [{"step": 1}])
    write(folder / "out/run.json", {"format": 2})
    return evaluate(folder, sums())


@case(
    "evaluate",
    "--compare with a folder without results",
    "other/results.json: expected the results of an evaluation",
)
def compare_nothing(folder):
    (folder / "other").mkdir()
    return evaluate(folder, sums(), "--compare=other")


@case(
    "evaluate",
    "--compare with results cut short",
    "other/results.json: expected the results of an evaluation",
)
def compare_halved(folder):
    write(folder / "other/results.json", '{"complete": true, "bench')
    return evaluate(folder, sums(), "--compare=other")


@case(
    "evaluate",
    "--compare with results that lack the benchmarks",
    "other/results.json: expected the results of an evaluation",
)
def compare_lacks(folder):
    write(folder / "other/results.json", {"complete": True})
    return evaluate(folder, sums(), "--compare=other")


@case(
    "evaluate",
    "--compare with results of other types",
    "other/results.json: expected the results of an evaluation",
)
def compare_types(folder):
    write(folder / "other/results.json", {"complete": True, "benchmarks": {"mine": 3}})
    return evaluate(folder, sums(), "--compare=other")


@case(
    "evaluate",
    "--compare with an evaluation that was stopped",
    "other/results.json: this evaluation was stopped before its end: expected a finished one",
)
def compare_stopped(folder):
    write(folder / "other/results.json", {"complete": False})
    return evaluate(folder, sums(), "--compare=other")


@case(
    "evaluate",
    "--compare with other problems",
    (
        "--compare=other: 4 problems of mine differ, or were scored on one side only, the"
        " first 'mine/000000': expected the same problems and limits"
    ),
)
def compare_other(folder):
    entry = {"by_problem": {"mine/000000": {"score": 1.0, "problem": "x"}}}
    results = {"complete": True, "model": "m", "benchmarks": {"mine": entry}}
    write(folder / "other/results.json", results)
    return evaluate(folder, sums(), "--compare=other")


@case(
    "evaluate",
    "a verifier timeout of 0",
    "argument --verifier-timeout-s: invalid value '0': expected a finite number > 0",
)
def timeout_zero(folder):
    return evaluate(folder, sums(), "--verifier-timeout-s=0")


@case(
    "evaluate",
    "no sample at all",
    "argument --samples-per-prompt: invalid value '0': expected an integer in [1, 2147483647]",
)
def samples_zero(folder):
    return evaluate(folder, sums(), "--samples-per-prompt=0")
