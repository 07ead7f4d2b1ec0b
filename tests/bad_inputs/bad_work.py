"""Bad options and folders of benchmark, reproduce and tiny.make."""

from cases import ONE_OBJECT, case, sums, write

from gopd_jax import tiny

BASE = tiny.model("base")


def bench(*options: str) -> list[str]:
    given = ["--random-weights", "--prompts=2", "--slots=2", "--max-response-tokens=4", "--runs=1"]
    return ["rollout", f"--model={BASE}", *given, *options]


@case("benchmark", "no part", "the following arguments are required: PART")
def bench_nothing(folder):
    return []


@case(
    "benchmark",
    "an unknown part",
    "argument PART: invalid choice: 'training' (choose from 'rollout', 'update', 'score', "
    "'loop', 'growth', 'head')",
)
def bench_part(folder):
    return ["training"]


@case(
    "benchmark",
    "a model that is not there",
    "no model at './gone': expected a Hugging Face folder or hub id, but there is no such folder",
)
def bench_model(folder):
    return bench("--model=./gone")


@case(
    "benchmark", "no question in a row", "q.jsonl:1: expected an object with a text as 'question'"
)
def bench_no_question(folder):
    write(folder / "q.jsonl", sums())
    return bench("--workload=chat", "--prompt-file=q.jsonl")


@case(
    "benchmark",
    "prompt file that is not there",
    "--prompt-file=gone.jsonl: no such file, expected JSON lines with a question",
)
def bench_no_file(folder):
    return bench("--workload=chat", "--prompt-file=gone.jsonl")


@case("benchmark", "prompt file that is not JSON", "q.jsonl:1: not valid JSON", ONE_OBJECT)
def bench_not_json(folder):
    write(folder / "q.jsonl", "{\n")
    return bench("--workload=chat", "--prompt-file=q.jsonl")


@case(
    "benchmark",
    "a question that is a number",
    "q.jsonl:1: expected an object with a text as 'question'",
)
def bench_number(folder):
    write(folder / "q.jsonl", [{"question": 3}] * 2)
    return bench("--workload=chat", "--prompt-file=q.jsonl")


@case("benchmark", "rows that are lists", "q.jsonl:1: expected an object with a text as 'question'")
def bench_lists(folder):
    write(folder / "q.jsonl", [[1], [2]])
    return bench("--workload=chat", "--prompt-file=q.jsonl")


@case(
    "benchmark",
    "fewer questions than --prompts",
    "--prompt-file=q.jsonl has 1 questions: expected --prompts=2",
)
def bench_few(folder):
    write(folder / "q.jsonl", [{"question": "1+1"}])
    return bench("--workload=chat", "--prompt-file=q.jsonl")


@case(
    "benchmark",
    "an unknown topology",
    (
        "--topology=v99:8x8: expected a slice that libtpu can describe, such as v5e:8x8, "
        "and libtpu to be installed"
    ),
)
def bench_topology(folder):
    return bench("--topology=v99:8x8")


@case(
    "benchmark",
    "a mesh that does not fit",
    (
        "mesh data=3 fsdp=-1 expert=1 context=1 tensor=1 does not fit 1 devices: the sizes must "
        "multiply to that number; one of them may be -1"
    ),
)
def bench_mesh(folder):
    return bench("--data=3")


@case(
    "benchmark",
    "rows that are shorter than an example",
    "row_length=9: expected at least 12, the tokens of the longest example (prompt + response)",
)
def bench_short_rows(folder):
    limits = ["--max-prompt-tokens=8", "--max-response-tokens=4"]
    return ["update", f"--model={BASE}", *limits, "--row-length=9"]


@case(
    "reproduce",
    "an unknown group",
    "--only=table9: expected some of table2, figure2, table3, table1, strength, steps, preview",
)
def group(folder):
    return ["--out=out", "--only=table9"]


@case(
    "reproduce", "no group", "--only=: expected some of table2, figure2, table3, table1, strength"
)
def no_group(folder):
    return ["--out=out", "--only="]


@case(
    "reproduce",
    "an output that is a file",
    "--out='out/size.json': cannot write there, expected a folder above it, but 'out' is a file",
)
def out_file(folder):
    write(folder / "out", "mine")
    return ["--out=out", "--only=table3"]


@case("reproduce", "size.json that is damaged", "out/size.json is damaged: expected a JSON object")
def size_damaged(folder):
    write(folder / "out/size.json", "{")
    return ["--out=out", "--only=table3"]


@case(
    "reproduce",
    "an experiment of another size",
    "--out=out holds an experiment of another size",
    "expected another --out",
)
def size_other(folder):
    write(folder / "out/size.json", {"steps": 3})
    return ["--out=out", "--only=table3"]


@case(
    "reproduce",
    "scores.json that is damaged",
    "out/seed0/base/scores.json is damaged: expected a JSON object",
)
def scores_damaged(folder):
    write(folder / "out/seed0/base/scores.json", "{")
    return ["--out=out", "--only=table3"]


@case(
    "reproduce",
    "scores.json that lacks its domains",
    "out/seed0/base/scores.json is damaged: expected a whole number in its 'seed'",
)
def scores_lack(folder):
    write(folder / "out/seed0/base/scores.json", {"arm": "base"})
    return ["--out=out", "--only=table3"]


@case(
    "tiny.make",
    "an unknown model",
    (
        "argument --only: invalid choice: 'huge' (choose from 'base', 'large_base', 'steps_base', "
        "'math_teacher', 'code_teacher', 'large_teacher', 'steps_teacher', 'hinted_base')"
    ),
)
def unknown(folder):
    return ["--out=out", "--only=huge"]


@case(
    "tiny.make", "a model that exists", "out/base exists: expected none; delete it to make it again"
)
def exists(folder):
    write(folder / "out/base/config.json", "{}")
    return ["--out=out", "--workdir=w", "--only=base"]


@case(
    "tiny.make",
    "a teacher whose base is not there",
    (
        "cannot read a model config from 'out/base': expected a Hugging Face folder with "
        "config.json, or a hub id"
    ),
)
def no_base(folder):
    return ["--out=out", "--workdir=w", "--only=math_teacher"]


@case(
    "tiny.make",
    "an output that is a file",
    (
        "--out='out/base/config.json': cannot write there, expected a folder above it, "
        "but 'out' is a file"
    ),
)
def make_out_file(folder):
    write(folder / "out", "mine")
    return ["--out=out", "--workdir=w", "--only=base"]


@case(
    "tiny.make",
    "a workdir that is a file",
    (
        "--workdir='w/base/run.json': cannot write there, expected a folder above it, but 'w' is a "
        "file"
    ),
)
def make_workdir_file(folder):
    write(folder / "w", "mine")
    return ["--out=out", "--workdir=w", "--only=base"]
