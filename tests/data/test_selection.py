"""Sources of several files and of the hub, bad rows, difficulty, the held-out split, and the command that counts it all."""

import json

import huggingface_hub
import pytest

from gopd_jax import tiny
from gopd_jax.data import __main__ as command
from gopd_jax.data import rows, sources
from gopd_jax.data.datasets import prepare
from gopd_jax.data.select import hard_enough, hold_out
from gopd_jax.data.tokenizer import with_suffix
from gopd_jax.evaluate import suites
from gopd_jax.types import Prompt

SUFFIX = "\nPut your final answer within \\boxed{}."


def write(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in made))
    return str(path)


def made(start, count, **fields):
    return [
        {"prompt": f"{i} + 1 =", "ground_truth": str(i + 1)} | fields
        for i in range(start, start + count)
    ]


def test_folders_and_patterns_are_read_in_the_order_of_their_names(tmp_path):
    for name, start in (("b.jsonl", 5), ("a.jsonl", 0), ("other.txt", 90)):
        write(tmp_path / "data" / name, made(start, 5))
    for source in (tmp_path / "data", tmp_path / "data" / "*.jsonl"):
        found = list(rows.read(str(source)))
        assert [r["ground_truth"] for r in found] == [str(i + 1) for i in range(10)]
        assert len({r["prompt_id"] for r in found}) == 10
    with pytest.raises(ValueError, match="no file there ends in"):
        sources.files(str(tmp_path / "data" / "*.parquet"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set of the hub that lies in a local folder."""
    folder = tmp_path / "snapshot"
    for i in range(2):
        write(folder / "data" / f"train-{i}.jsonl", made(10 * i, 3))

    def file(repo, path, **_):
        assert repo == "owner/sums"
        return str(folder / path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", file)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(folder))
    sources._from_hub.cache_clear()
    yield
    sources._from_hub.cache_clear()


def test_data_sets_of_the_hub(hub, tmp_path):
    whole = prepare(
        "hf://datasets/owner/sums@v1/data/train-*.jsonl", tmp_path / "prepared", domain="math"
    )
    assert [p.ground_truth for p in whole] == ["1", "2", "3", "11", "12", "13"]
    assert (
        len(
            prepare(
                "hf://datasets/owner/sums/data/train-1.jsonl", tmp_path / "prepared", domain="math"
            )
        )
        == 3
    )
    with pytest.raises(ValueError, match="wanted hf://datasets/OWNER/NAME"):
        sources.files("hf://datasets/owner")
    (benchmark,) = suites.load("hf://datasets/owner/sums/data/train-1.jsonl", "")
    assert (benchmark.name, benchmark.reward, len(benchmark.prompts)) == ("sums/train-1", "math", 3)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def offline(*_, **__):
        raise OSError("offline\nmode")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    sources._from_hub.cache_clear()
    with pytest.raises(ValueError, match=r"hub did not give it.*\(offline mode\)") as error:
        sources.files("hf://datasets/owner/sums/a.jsonl")
    assert "\n" not in str(error.value)


def test_bad_rows_are_named_and_the_rest_is_unharmed(tmp_path):
    good = made(0, 4)
    path = write(
        tmp_path / "a.jsonl",
        [good[0], "{not json", good[1], {"prompt": "no truth"}, good[2], {"x": 1}, good[3]],
    )
    with pytest.raises(ValueError, match=r"a\.jsonl:2: not valid JSON"):
        prepare(path, tmp_path / "prepared", domain="math")
    kept = prepare(path, tmp_path / "prepared", domain="math", skip_bad_rows=True)
    assert [p.ground_truth for p in kept] == ["1", "2", "3", "4"]
    assert [line.split(":")[1] for line in kept.skipped] == ["2", "4", "6"]
    again = prepare(path, tmp_path / "prepared", domain="math", skip_bad_rows=True)
    assert again.skipped == kept.skipped


def test_a_file_that_breaks_off_does_not_harm_the_next(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").write_bytes(b"PAR1 and then nothing")
    write(tmp_path / "data" / "b.jsonl", made(0, 3))
    with pytest.raises(ValueError, match=r"a\.parquet"):
        list(rows.read(str(tmp_path / "data")))
    bad = []
    assert len(list(rows.read(str(tmp_path / "data"), bad.append))) == 3
    assert len(bad) == 1 and "a.parquet" in bad[0]


def prompts(count, **extra):
    chat = [({"role": "user", "content": f"question {i}"},) for i in range(count)]
    return [Prompt(f"p{i}", messages, "math", "1", dict(extra)) for i, messages in enumerate(chat)]


def test_difficulty():
    mixed = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), "", "", e) for i, e in enumerate(
        [{"difficulty": 6}, {"difficulty": 5.9}, {"extra_info": {"difficulty": "7.5"}}, {}, {"difficulty": "easy"}]
    )]  # fmt: skip
    kept, dropped = hard_enough(mixed, 6)
    assert [p.prompt_id for p in kept] == ["p0", "p2"]
    assert dropped == (
        ("p1", "difficulty below 6"),
        ("p3", "no difficulty"),
        ("p4", "no difficulty"),
    )
    assert hard_enough(mixed, 0) == (mixed, ())
    with pytest.raises(
        ValueError, match='min_difficulty=6: none of 2 prompts has a number in "difficulty"'
    ):
        hard_enough(prompts(2), 6)


def test_a_held_out_question_is_on_one_side_and_added_rows_move_nothing():
    first = prompts(400)
    train, test = hold_out(first, 0.25)
    names = {p.prompt_id for p in test}
    assert 60 < len(test) < 140 and len(train) + len(test) == 400
    again = [Prompt(f"again{i}", p.messages, "math", "1", {}) for i, p in enumerate(first)]
    _, more = hold_out([*first, *again, *prompts(900)[400:]], 0.25)
    assert names <= {p.prompt_id for p in more}
    assert {p.prompt_id for p in more} & {p.prompt_id for p in first} == names
    contents = {p.messages[0]["content"] for p in test}
    assert {p.messages[0]["content"] for p in more if p.prompt_id.startswith("again")} == contents
    assert len(hold_out(first, 7)[1]) == 7
    with pytest.raises(ValueError, match="0 are left to train on"):
        hold_out(first, 400)


def test_a_suffix_that_asks_for_a_box_is_not_added_twice():
    plain, asks = (
        [{"role": "user", "content": text}] for text in ("1 + 1?", "1 + 1? Answer in \\boxed{}.")
    )
    assert with_suffix(plain, SUFFIX)[0]["content"] == "1 + 1?" + SUFFIX
    assert with_suffix(asks, SUFFIX) == asks
    assert with_suffix(asks, " Be brief.")[0]["content"].endswith(" Be brief.")


def test_the_command_counts_everything(tmp_path, capsys):
    good = [r | {"difficulty": 5 + i % 4} for i, r in enumerate(made(0, 40))]
    path = write(
        tmp_path / "a.jsonl",
        [*good, good[0], {"prompt": "?" * 90, "ground_truth": "1", "difficulty": 9}, "[1", "{}"],
    )
    options = [
        f"--tokenizer={tiny.model('base')}",
        "--max-prompt-tokens=60",
        "--min-difficulty=6",
        "--held-out=5",
    ]
    assert command.main([path, *options, "--verify=1", f"--json={tmp_path / 'out.jsonl'}"]) == 0
    out = capsys.readouterr().out
    assert "a.jsonl:43" in out and "a.jsonl:44" in out and "over 60 tokens 1" in out
    record = json.loads((tmp_path / "out.jsonl").read_text())
    assert (record["rows"], record["bad"], record["repeated"], record["unverifiable"]) == (
        44,
        2,
        1,
        0,
    )
    assert record["difficulties"] == {"5": 11, "6": 10, "7": 10, "8": 10, "9": 1}
    assert record["dropped"] == {"difficulty below 6": 11, "over 60 tokens": 1, "cannot be read": 2}
    assert record["train"] + record["held_out"] == 30 and record["lengths"]["max"] > 90


def test_wrong_commands_end_in_one_line(tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path / "none.jsonl")], "none.jsonl"),
        (["deepmath"], "wanted a file ending in"),
        (
            [write(tmp_path / "a.jsonl", made(0, 3)), "--min-difficulty=6"],
            "none of 3 prompts has a number",
        ),
    ):
        assert command.main(arguments) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
