"""Bad prompts, options and outputs of generate."""

from pathlib import Path

from bad_models import generate as of_student
from cases import ONE_OBJECT, case, edit, model, write

from gopd_jax import tiny

BASE = f"--model={tiny.model('base')}"

TAKEN = (
    "--out=out/samples.jsonl is taken, and its settings cannot be read from "
    "out/samples.summary.json"
)


def generate(folder: Path, prompts, *options: str) -> list[str]:
    write(folder / "prompts.jsonl", prompts)
    return [
        BASE,
        "--prompt-file=prompts.jsonl",
        "--out=out/samples.jsonl",
        "--max-response-tokens=8",
        *options,
    ]


ONE = [{"prompt": "1+1"}]


@case(
    "generate",
    "prompts file that is not there",
    "--prompt-file=gone.jsonl: no such file, expected JSON lines of prompts",
)
def no_prompts(folder):
    return [BASE, "--prompt-file=gone.jsonl", "--out=out.jsonl"]


@case(
    "generate",
    "prompts that are a folder",
    "--prompt-file=prompts: no such file, expected JSON lines of prompts",
)
def prompts_folder(folder):
    (folder / "prompts").mkdir()
    return [BASE, "--prompt-file=prompts", "--out=out.jsonl"]


@case(
    "generate",
    "prompts file that is empty",
    "--prompt-file=prompts.jsonl: no rows, expected at least one prompt",
)
def prompts_empty(folder):
    return generate(folder, "")


@case("generate", "prompts with invalid UTF-8", "prompts.jsonl:2: not valid JSON", ONE_OBJECT)
def prompts_utf8(folder):
    return generate(folder, b'{"prompt": "1+1"}\n{"prompt": "\xff"}\n')


@case("generate", "prompts in UTF-16", "prompts.jsonl:1: not valid JSON", ONE_OBJECT)
def prompts_utf16(folder):
    return generate(folder, '{"prompt": "1+1"}\n'.encode("utf-16"))


@case(
    "generate", "a prompt line of 100,000 brackets", "prompts.jsonl:1: not valid JSON", ONE_OBJECT
)
def prompts_deep(folder):
    return generate(folder, "[" * 100_000)


@case(
    "generate",
    "a prompt that is null",
    ('prompts.jsonl:1: found [\'prompt\'], expected an object with "messages" or "prompt"'),
)
def prompts_null(folder):
    return generate(folder, [{"prompt": None}])


@case(
    "generate",
    "max_tokens of a prompt that is a text",
    "prompts.jsonl:1: max_response_tokens='many': expected an integer >= 1",
)
def prompts_max_tokens(folder):
    return generate(folder, [{"prompt": "1+1", "max_response_tokens": "many"}])


@case(
    "generate",
    "max_tokens of a prompt that is negative",
    "prompts.jsonl:1: max_response_tokens=-1: expected an integer >= 1",
)
def prompts_max_tokens_negative(folder):
    return generate(folder, [{"prompt": "1+1", "max_response_tokens": -1}])


@case(
    "generate",
    "the same prompt_id twice",
    "prompts.jsonl:2: prompt_id 'a' is already taken by line 1",
)
def prompts_twice(folder):
    return generate(folder, [{"prompt": "1+1", "prompt_id": "a"}] * 2)


@case(
    "generate", "prompt_id that is a number", "prompts.jsonl:1: prompt_id must be a string, not 7"
)
def prompts_id_number(folder):
    return generate(folder, [{"prompt": "1+1", "prompt_id": 7}])


@case(
    "generate",
    "only prompts over the limit",
    (
        "--prompt-file=prompts.jsonl: none of 1 prompts is within the limits; the first, "
        "'line-1', has 6 tokens: expected at most 1 (--max-prompt-tokens, or what"
    ),
)
def prompts_too_long(folder):
    return generate(folder, ONE, "--max-prompt-tokens=1")


@case(
    "generate",
    "an output that is a folder",
    "--out='out/samples.jsonl': cannot write there, expected a file, but it is a folder",
)
def out_is_a_folder(folder):
    (folder / "out/samples.jsonl").mkdir(parents=True)
    return generate(folder, ONE)


@case(
    "generate",
    "an output below a file",
    (
        "--out='out/samples.jsonl': cannot write there, expected a folder above it, but "
        "'out' is a file"
    ),
)
def out_below_a_file(folder):
    write(folder / "out", "mine")
    return generate(folder, ONE)


@case(
    "generate",
    "an output that another program wrote",
    TAKEN,
)
def out_of_another_program(folder):
    write(folder / "out/samples.jsonl", "mine\n")
    return generate(folder, ONE)


@case(
    "generate",
    "an output that is the prompts file",
    "--out=prompts.jsonl is taken, and its settings cannot be read from prompts.summary.json",
)
def out_is_the_prompts(folder):
    return [*generate(folder, ONE), "--out=prompts.jsonl"]


@case(
    "generate",
    "a summary that is the prompts file",
    "--out=a.jsonl is taken, and its settings cannot be read from a.summary.json",
)
def summary_is_the_prompts(folder):
    write(folder / "a.summary.json", ONE)
    return [BASE, "--prompt-file=a.summary.json", "--out=a.jsonl", "--max-response-tokens=8"]


@case(
    "generate",
    "an output whose summary is gone",
    TAKEN,
)
def out_without_summary(folder):
    write(folder / "out/samples.jsonl", [{"prompt_id": "line-1", "sample_id": 0}])
    return generate(folder, ONE)


@case(
    "generate",
    "an output whose summary is a list",
    TAKEN,
)
def out_summary_list(folder):
    write(folder / "out/samples.jsonl", [{"prompt_id": "line-1", "sample_id": 0}])
    write(folder / "out/samples.summary.json", "[]")
    return generate(folder, ONE)


@case(
    "generate",
    "an output whose summary holds other types",
    TAKEN,
)
def out_summary_types(folder):
    write(folder / "out/samples.jsonl", [{"prompt_id": "line-1", "sample_id": 0}])
    summary = {"complete": False, "starts": [], "settings": []}
    write(folder / "out/samples.summary.json", summary)
    return generate(folder, ONE)


@case("generate", "a temperature below 0", "temperature=-1.0: expected a number >= 0")
def temperature(folder):
    return generate(folder, ONE, "--temperature=-1")


@case(
    "generate",
    "a temperature that is nan",
    "argument --temperature: invalid value 'nan': expected a finite number",
)
def temperature_nan(folder):
    return generate(folder, ONE, "--temperature=nan")


@case(
    "generate",
    "a temperature that is a text",
    "argument --temperature: invalid value 'hot': expected a finite number",
)
def temperature_text(folder):
    return generate(folder, ONE, "--temperature=hot")


@case("generate", "a top-p above 1", "top_p=1.5: expected a number <= 1")
def top_p(folder):
    return generate(folder, ONE, "--top-p=1.5")


@case(
    "generate",
    "a stop id outside the vocabulary",
    "stop ids [99999] of '",
    "' are outside its vocabulary of 102 ids: expected ids from 0 to 101",
)
def stop_id(folder):
    return generate(folder, ONE, "--extra-stop-ids", "99999")


@case(
    "generate",
    "a stop id that is a text",
    "argument --extra-stop-ids: invalid value 'end': expected an integer in [0, 2147483647]",
)
def stop_id_text(folder):
    return generate(folder, ONE, "--extra-stop-ids", "end")


@case(
    "generate",
    "more devices than there are",
    (
        "mesh data=1 fsdp=-1 expert=1 context=1 tensor=64 does not fit 1 devices: the sizes must"
        " multiply to that number; one of them may be -1"
    ),
)
def tensor(folder):
    return generate(folder, ONE, "--tensor=64")


@case(
    "generate",
    "a limit beyond the positions of the model",
    "--max-response-tokens=100000: expected less than the 512 positions of ",
)
def positions(folder):
    return generate(folder, ONE, "--max-response-tokens=100000")


@case(
    "generate",
    "a model path that is empty",
    "no model at '': expected a Hugging Face folder or hub id, but there is no such folder",
)
def model_empty(folder):
    return [*generate(folder, ONE), "--model="]


@case(
    "generate",
    "an output path that is empty",
    "--out='': cannot write there, expected the name of a file",
)
def out_empty(folder):
    return [*generate(folder, ONE), "--out="]


@case("generate", "an unknown option with a line break", "unrecognized arguments: --mo del=x")
def option_line_break(folder):
    return [*generate(folder, ONE), "--mo\ndel=x"]


@case(
    "generate",
    "tokenizer with more ids than the model has embeddings",
    (
        "--model=student has 50 embeddings, its tokenizer has 102 ids: expected at least "
        "as many embeddings as ids"
    ),
)
def more_ids(folder):
    edit(model(folder) / "config.json", vocab_size=50)
    return of_student(folder)
