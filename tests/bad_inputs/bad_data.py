"""Bad data sets of a run."""

import gzip
import json
from pathlib import Path

from bad_train import config
from cases import ONE_OBJECT, case, sums, without_permission, write


def train(folder: Path, content) -> list[str]:
    arguments = [config(folder), "--workdir=run"]
    write(folder / "train.jsonl", content)
    return arguments


def with_row(folder: Path, row) -> list[str]:
    """Training data whose third row is `row`."""
    line = row if isinstance(row, bytes) else json.dumps(row).encode()
    good = [json.dumps(row).encode() for row in sums()]
    return train(folder, b"\n".join([*good[:2], line, *good[2:]]) + b"\n")


@case("train", "empty data file", "train.jsonl: no rows, expected at least one")
def data_empty(folder):
    return train(folder, "")


@case("train", "data file of blank lines", "train.jsonl: no rows, expected at least one")
def data_blank(folder):
    return train(folder, "\n\n  \n")


@case("train", "data file in UTF-16", "train.jsonl:1: not valid JSON", ONE_OBJECT)
def data_utf16(folder):
    return train(folder, json.dumps(sums()[0]).encode("utf-16"))


@case(
    "train",
    "an unreadable row, with data.cache_dir",
    "train.jsonl:3: not valid JSON",
    ONE_OBJECT,
)
def data_cache_dir(folder):
    return [*with_row(folder, b"{"), "--config.data.cache_dir=new/cache"]


@case("train", "NUL bytes in a row", "train.jsonl:3: not valid JSON", ONE_OBJECT)
def data_nul(folder):
    return with_row(folder, b"\0\0\0\0\0")


@case("train", "invalid UTF-8 in a row", "train.jsonl:3: not valid JSON", ONE_OBJECT)
def data_utf8(folder):
    return with_row(folder, b'{"prompt": "\xff\xfe", "ground_truth": "1"}')


@case("train", "a line cut short", "train.jsonl:3: not valid JSON", ONE_OBJECT)
def data_half_line(folder):
    return with_row(folder, b'{"prompt": "1+1", "ground_tr')


@case(
    "train",
    "a JSON array in place of JSON lines",
    "train.jsonl:1: a row must be an object, this one is list: expected one object for each line",
)
def data_array(folder):
    return train(folder, json.dumps(sums()))


@case(
    "train",
    "an indented JSON file in place of JSON lines",
    "train.jsonl:1: not valid JSON",
    ONE_OBJECT,
)
def data_indented(folder):
    return train(folder, json.dumps(sums()[0], indent=2))


@case(
    "train",
    "a prompt that is a number",
    "train.jsonl:3: prompt must be a list of messages or a string, not 17",
)
def data_prompt_number(folder):
    return with_row(folder, {"prompt": 17, "ground_truth": "1"})


@case("train", "an empty prompt", "train.jsonl:3: prompt is blank")
def data_prompt_empty(folder):
    return with_row(folder, {"prompt": "", "ground_truth": "1"})


@case(
    "train",
    "a row without a ground truth",
    (
        "train.jsonl:3: no ground truth: expected one of ground_truth, "
        "reward_model.ground_truth, answer, or the fields of another known format (own,"
    ),
)
def data_no_truth(folder):
    return with_row(folder, {"prompt": "1+1"})


@case(
    "train",
    "a ground truth that is infinite",
    "train.jsonl:3: ground_truth must be a string, not inf",
)
def data_truth_inf(folder):
    return with_row(folder, b'{"prompt": "1+1", "ground_truth": Infinity}')


@case("train", "a ground truth of 5,000 digits", "train.jsonl:3: not valid JSON", ONE_OBJECT)
def data_truth_huge(folder):
    return with_row(folder, b'{"prompt": "1+1", "ground_truth": ' + b"9" * 5000 + b"}")


@case(
    "train",
    "messages that are a text",
    "train.jsonl:3: messages must be a list of messages, not '1+1'",
)
def data_messages_text(folder):
    return with_row(folder, {"messages": "1+1", "ground_truth": "1"})


@case(
    "train",
    "a message without content",
    "train.jsonl:3: messages[0].content must be a string, not None",
)
def data_message_no_content(folder):
    return with_row(folder, {"messages": [{"role": "user"}], "ground_truth": "1"})


@case(
    "train",
    "an empty list of messages",
    (
        "train.jsonl:3: messages must hold a user message and not end with the "
        "assistant's, its roles are []"
    ),
)
def data_messages_empty(folder):
    return with_row(folder, {"messages": [], "ground_truth": "1"})


@case(
    "train",
    "a message with a role that the template does not know",
    (
        "train.jsonl:3: messages[0].role='wizard': expected one of system, developer, user, "
        "assistant, tool"
    ),
)
def data_role(folder):
    message = {"role": "wizard", "content": "1+1"}
    return with_row(folder, {"messages": [message], "ground_truth": "1"})


@case(
    "train",
    "the same prompt_id twice",
    "train.jsonl:2: prompt_id 'a' is already taken by train.jsonl:1",
)
def data_duplicate(folder):
    return train(folder, [row | {"prompt_id": "a"} for row in sums()])


@case("train", "JSON nested 100,000 deep", "train.jsonl:3: not valid JSON", ONE_OBJECT)
def data_deep(folder):
    return with_row(folder, b"[" * 100_000)


@case(
    "train",
    "a character outside of Unicode",
    (
        "train.jsonl:3: prompt is not valid Unicode: 'utf-8' codec can't encode character"
        " '\\ud800' in position 0: surrogates not allowed"
    ),
)
def data_surrogate(folder):
    return with_row(folder, b'{"prompt": "\\ud800", "ground_truth": "1"}')


@case(
    "train",
    "a row of another domain",
    (
        "prompt 'train/000002' says domain 3, its file is for 'math'; split the file by "
        "domain, or its teacher would be the wrong one"
    ),
)
def data_domain(folder):
    return with_row(folder, b'{"prompt": "1+1", "ground_truth": "2", "domain": 3}')


@case(
    "train",
    "only prompts over the length limit",
    "none of 1 prompts fits max_prompt_tokens=40: the shortest has 604 tokens",
)
def data_too_long(folder):
    return train(folder, [row | {"prompt": "1+" * 300 + "1"} for row in sums(1)])


@case(
    "train",
    "a folder in place of the data file",
    "'train.jsonl' is a folder: expected a file, or a folder without .jsonl, .jsonl.gz, .parquet",
)
def data_folder(folder):
    arguments = [config(folder), "--workdir=run"]
    (folder / "train.jsonl").unlink()
    (folder / "train.jsonl").mkdir()
    return arguments


@case(
    "train",
    "a data file that is not there",
    "'test.jsonl': no such file, expected prompts ending in .jsonl, .jsonl.gz, .parquet",
)
def data_missing(folder):
    arguments = [config(folder), "--workdir=run"]
    (folder / "test.jsonl").unlink()
    return arguments


@case("train", "a gzip file cut short", "train.jsonl.gz:198: not a whole gzip file")
def data_gzip(folder):
    arguments = [config(folder), "--workdir=run", "--config.domains.math.train=train.jsonl.gz"]
    content = gzip.compress("".join(json.dumps(r) + "\n" for r in sums(400)).encode())
    write(folder / "train.jsonl.gz", content[: len(content) // 2])
    return arguments


@case("train", "a .gz file that is not gzip", "train.jsonl.gz:1: not a whole gzip file")
def data_not_gzip(folder):
    arguments = [config(folder), "--workdir=run", "--config.domains.math.train=train.jsonl.gz"]
    write(folder / "train.jsonl.gz", sums())
    return arguments


@case("train", "a .parquet file that is not parquet", "train.parquet: not a readable parquet file")
def data_not_parquet(folder):
    arguments = [config(folder), "--workdir=run", "--config.domains.math.train=train.parquet"]
    write(folder / "train.parquet", sums())
    return arguments


@case(
    "train",
    "a bad row in the test set, after a good training set",
    (
        "test.jsonl:5: no ground truth: expected one of ground_truth, "
        "reward_model.ground_truth, answer, or the fields of another known format (own,"
    ),
)
def data_bad_test(folder):
    arguments = [config(folder), "--workdir=run"]
    write(folder / "test.jsonl", [*sums(), {"prompt": "?"}])
    return arguments


@case(
    "train",
    "min_difficulty for rows without difficulty",
    (
        "config.domains.math.min_difficulty=6: none of 4 prompts has a number in "
        "\"difficulty\" (nor in extra_info); the first, 'train/000000', has no further"
    ),
)
def data_no_difficulty(folder):
    return [*train(folder, sums()), "--config.domains.math.min_difficulty=6.0"]


@case(
    "train",
    "held_out of more prompts than there are",
    (
        "config.domains.math.held_out=50: of 4 prompts 0 are left to train on, 4 held "
        "out; expected some of each"
    ),
)
def data_held_out(folder):
    options = ["--config.domains.math.held_out=50.0", "--config.domains.math.test="]
    return [*train(folder, sums()), *options]


@case(
    "train",
    "code specification that is not one",
    (
        "config.domains.math: prompt 'train/000000' cannot be verified as 'code': code "
        "ground truth '200' is int: expected an object with one or more of"
    ),
)
def data_not_code(folder):
    return [*train(folder, sums()), "--config.domains.math.reward=code"]


@case(
    "train",
    "an embedded data set that does not exist",
    (
        "tiny:chess/train: expected one of ['tiny:math/train', 'tiny:math/test', "
        "'tiny:math/sft', 'tiny:math/noisy', 'tiny:math/hinted', 'tiny:code/train',"
    ),
)
def data_tiny(folder):
    return [config(folder), "--workdir=run", "--config.domains.math.train=tiny:chess/train"]


@case(
    "train",
    "a data set of the hub without a name",
    (
        "'hf://datasets/x': expected hf://datasets/OWNER/NAME[@REVISION]/PATH, where PATH"
        " is a file, folder or pattern of the data set"
    ),
)
def data_hub(folder):
    return [config(folder), "--workdir=run", "--config.domains.math.train=hf://datasets/x"]


@case(
    "train",
    "a pattern without files",
    "'parts/*.jsonl': no file there ends in .jsonl, .jsonl.gz, .parquet",
)
def data_pattern(folder):
    return [config(folder), "--workdir=run", "--config.domains.math.train=parts/*.jsonl"]


@case("train", "a data file that must not be read", "train.jsonl")
def data_unreadable(folder):
    arguments = train(folder, sums())
    without_permission(folder / "train.jsonl")
    return arguments
