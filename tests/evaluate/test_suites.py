r"""Benchmarks by name and by file: suffixes, kinds of verification, and errors before any work."""

from evaluate_cases import CODE, LONG, MATH, command, results, samples, write_rows
import pytest

from gopd_jax.data.messages import MATH_SUFFIX
from gopd_jax.evaluate import suites
from gopd_jax.evaluate.catalog import SUITES

GOOD = {"prompt": "1+1", "ground_truth": "2"}


def test_known_names_are_looked_for_in_the_data_folder(tmp_path):
    for name in SUITES["math"]:
        write_rows(tmp_path / f"{name}.jsonl", [{"problem": f"{name}: 1+1?", "answer": "2"}])
    loaded = suites.load("math", str(tmp_path))
    names = ["aime24", "aime25", "hmmt25_feb", "hmmt25_nov"]
    assert [b.name for b in loaded] == names
    assert {(b.reward, b.samples) for b in loaded} == {("math", 32)}
    assert loaded[0].prompts[0].messages[0]["content"] == "aime24: 1+1?" + MATH_SUFFIX
    (by_path,) = suites.load(f"{tmp_path}/aime24.jsonl", "")
    assert by_path == loaded[0]
    turned = suites.load("aime25,math", str(tmp_path))
    assert [b.name for b in turned] == ["aime25", "aime24", "hmmt25_feb", "hmmt25_nov"]


def test_suffix_and_reward_of_a_file_that_is_not_known(tmp_path):
    rows = [
        {"prompt": "1+1?", "ground_truth": "2"},
        {"prompt": r"1+2? Answer in \boxed{}.", "ground_truth": "3"},
    ]
    path = str(write_rows(tmp_path / "mine.jsonl", rows))

    def texts(benchmark):
        return [p.messages[-1]["content"] for p in benchmark.prompts]

    (own,) = suites.load(path, "")
    assert texts(own) == ["1+1?" + MATH_SUFFIX, rows[1]["prompt"]]
    assert (own.name, own.reward, own.samples) == ("mine", "math", 32)
    (told,) = suites.load(path, "", samples=5, suffix=" Go.")
    assert texts(told) == ["1+1? Go.", rows[1]["prompt"] + " Go."]
    assert told.samples == 5 and told.hashes == own.hashes
    (code,) = suites.load(str(write_rows(tmp_path / "code.jsonl", CODE)), "")
    assert (code.reward, code.samples) == ("code", 4)
    assert list(code.prompts[0].messages) == CODE[0]["messages"]


def test_embedded_benchmarks_have_no_suffix():
    (embedded,) = suites.load("tiny:math/test", "")
    assert [list(p.messages) for p in embedded.prompts[:6]] == [r["messages"] for r in MATH]
    assert (embedded.reward, embedded.samples) == ("math", 4)
    (steps,) = suites.load("tiny:steps/test", "")
    assert (steps.reward, steps.samples) == ("math", 4)


def test_the_math_suite_of_the_paper(shared_data, tmp_path, capsys):
    """30 problems each; of the first three of aime24, two are too long for the embedded model."""
    loaded = suites.load("math", str(shared_data))
    assert [len(b.prompts) for b in loaded] == [30] * 4
    texts = [p.messages[-1]["content"] for b in loaded for p in b.prompts]
    assert all(text.endswith(MATH_SUFFIX) for text in texts)
    rows = (shared_data / "aime24.jsonl").read_text().splitlines()[:3]
    (tmp_path / "aime24.jsonl").write_text("\n".join(rows) + "\n")
    options = [
        "--samples-per-prompt=1",
        "--slots=2",
        "--max-response-tokens=16",
        f"--benchmark-dir={tmp_path}",
        "--verifier-workers=1",
    ]
    assert command(tmp_path, *options, suite="aime24") == 0
    s = results(tmp_path)["benchmarks"]["aime24"]
    assert s["problems"] + s["skipped"] == 3 and s["skipped"]
    assert len(samples(tmp_path)) == s["problems"]


# ---- What is wrong.


UNKNOWN = "no benchmark 'moth'; nearest: 'math'; expected some of math, code, aime24, aime25, "


@pytest.mark.parametrize(
    "rows, options, words",
    [
        (None, ["--suite=moth"], UNKNOWN),
        (
            None,
            ["--suite=math"],
            "aime24: expected --benchmark-dir=FOLDER, the folder that holds aime24.j",
        ),
        (
            None,
            ["--suite=math", "--benchmark-dir=/nowhere"],
            "aime24: no such file: /nowhere/aime24.jsonl",
        ),
        (None, ["--suite=/nowhere/x.jsonl"], "no such file: /nowhere/x.jsonl"),
        (None, ["--suite=tiny:art/test"], "tiny:art/test"),
        ([GOOD, '{"prompt": "1+1'], [], "rows.jsonl:2: not valid JSON"),
        ([GOOD, {"prompt": "1+1"}], [], "rows.jsonl:2: no ground truth"),
        ([GOOD | {"ground_truth": "$$"}], [], "rows.jsonl: prompt 'rows/000000': math ground trut"),
        ([GOOD], ["--reward=code"], "rows.jsonl: prompt 'rows/000000': code ground truth"),
        (
            [GOOD],
            ["--reward=art"],
            "--reward: invalid value 'art': expected auto, math, code, or p",
        ),
        ([""], [], "rows.jsonl: no rows"),
        ([LONG], [], "none of 1 prompts is within the limits"),
        (
            [GOOD],
            ["--samples-per-prompt=0"],
            "--samples-per-prompt: invalid value '0': expected an integer in [1, ",
        ),
        (
            [GOOD],
            ["--verifier-workers=0"],
            "--verifier-workers: invalid value '0': expected an integer in [1, ",
        ),
        ([GOOD], ["--verifier-timeout-s=0"], "invalid value '0': expected a finite number > 0"),
        (
            [GOOD],
            ["--max-response-tokens=512"],
            "--max-response-tokens=512: expected less than the 512 positions",
        ),
        ([GOOD], ["--temperature=-1"], "temperature=-1.0: expected a number >= 0"),
        ([GOOD], ["--model=/nowhere"], "'/nowhere'"),
        ([GOOD], ["--compare=/nowhere"], "/nowhere/results.json: expected the results of an eval"),
        ([GOOD], ["--modl=x"], "unrecognized arguments: --modl=x"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_any_work(
    tmp_path, no_weights, capsys, rows, options, words
):
    if rows is not None:
        write_rows(tmp_path / "rows.jsonl", rows)
    assert command(tmp_path, *options, suite=f"{tmp_path}/rows.jsonl") == 2
    *before, said = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and words in said, said
    assert all(line.startswith("skipped: ") for line in before)
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_name_or_with_one_id(tmp_path, no_weights, capsys):
    (tmp_path / "a").mkdir()
    write_rows(tmp_path / "rows.jsonl", [GOOD])
    write_rows(tmp_path / "a" / "rows.jsonl", [GOOD])
    assert command(tmp_path, suite=f"{tmp_path}/rows.jsonl,{tmp_path}/a/rows.jsonl") == 2
    assert "are both 'rows': expected each name once" in capsys.readouterr().err
    write_rows(tmp_path / "x.jsonl", [GOOD | {"prompt_id": "one"}])
    write_rows(tmp_path / "y.jsonl", [GOOD | {"prompt_id": "one"}])
    assert command(tmp_path, suite=f"{tmp_path}/x.jsonl,{tmp_path}/y.jsonl") == 2
    assert "prompt_id 'one' is in" in capsys.readouterr().err


def test_tools_and_keyword_arguments_are_part_of_a_problem(tmp_path):
    def load(**more):
        row = GOOD | {"prompt_id": "p"} | more
        (benchmark,) = suites.load(str(write_rows(tmp_path / "mine.jsonl", [row])), "")
        return benchmark

    tools, kwargs = [{"name": "f", "parameters": {}}], {"effort": "high"}
    variants = [load(), load(tools=tools), load(chat_template_kwargs=kwargs)]
    assert len({b.hashes["p"] for b in variants}) == 3
    assert load(tools=[], chat_template_kwargs={}).hashes == load(level=3).hashes
    assert [b.prompts[0].tools for b in variants] == [None, tools, None]
    assert variants[2].prompts[0].template_kwargs == kwargs
