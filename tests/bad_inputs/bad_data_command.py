"""Bad sources and options of `python -m gopd_jax.data`."""

from cases import ONE_OBJECT, case, sums, write

from gopd_jax import tiny


@case(
    "data",
    "a file that is not there",
    "'gone.jsonl': no such file, expected prompts ending in .jsonl, .jsonl.gz, .parquet",
)
def missing(folder):
    return ["gone.jsonl"]


@case(
    "data",
    "rows that cannot be read, all of them",
    "a.jsonl: no rows that can be read; the first: a.jsonl:1: not valid JSON",
    ONE_OBJECT,
)
def all_bad(folder):
    write(folder / "a.jsonl", "{\n[\n")
    return ["a.jsonl"]


@case(
    "data",
    "a negative share",
    "argument --held-out: invalid value '-1': expected a finite number >= 0",
)
def negative_share(folder):
    write(folder / "a.jsonl", sums())
    return ["a.jsonl", "--held-out=-1"]


@case(
    "data",
    "a share that is nan",
    "argument --held-out: invalid value 'nan': expected a finite number >= 0",
)
def nan_share(folder):
    write(folder / "a.jsonl", sums())
    return ["a.jsonl", "--held-out=nan"]


@case(
    "data",
    "a difficulty that is nan",
    "argument --min-difficulty: invalid value 'nan': expected a finite number >= 0",
)
def nan_difficulty(folder):
    write(folder / "a.jsonl", sums())
    return ["a.jsonl", "--min-difficulty=nan"]


@case(
    "data",
    "a tokenizer that is a file",
    (
        "no tokenizer at 'a.jsonl': there is no such folder, and the Hugging Face hub did"
        " not provide it"
    ),
)
def tokenizer_file(folder):
    write(folder / "a.jsonl", sums())
    return ["a.jsonl", "--tokenizer=a.jsonl"]


@case(
    "data",
    "--json with a file",
    "--json=out.jsonl: expected --json alone, which prints to stdout",
)
def json_with_file(folder):
    write(folder / "a.jsonl", sums())
    return ["a.jsonl", "--json=out.jsonl"]


@case(
    "data",
    "a folder without data files",
    "'data': no file there ends in .jsonl, .jsonl.gz, .parquet",
)
def empty_folder(folder):
    (folder / "data").mkdir()
    return ["data"]


@case(
    "data",
    "an empty name",
    (
        "'': expected a file ending in .jsonl, .jsonl.gz, .parquet, a folder or pattern "
        "of them, hf://datasets/OWNER/NAME/PATH, or tiny:NAME/SPLIT"
    ),
)
def empty_name(folder):
    return [""]


@case(
    "data",
    "a prompt suffix for rows without a user message",
    (
        "a.jsonl: no rows that can be read; the first: a.jsonl:1: messages must hold a "
        "user message and not end with the assistant's, its roles are ['system']"
    ),
)
def no_user(folder):
    write(folder / "a.jsonl", [{"messages": [{"role": "system", "content": "x"}], "answer": "1"}])
    return ["a.jsonl", f"--tokenizer={tiny.model('base')}", "--prompt-suffix=!"]
