import gzip
import json
import os
from pathlib import Path
import subprocess
import sys
import types

from data_cases import ROOT
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gopd_jax.data import datasets, rows
from gopd_jax.data.datasets import prepare
from gopd_jax.types import Prompt

USER = [{"role": "user", "content": "6 * 7?"}]


def write(path: Path, *lines: dict | str) -> Path:
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    )
    return path


def load(path, tmp_path, domain="math") -> list[Prompt]:
    return list(prepare(path, tmp_path / "prepared", domain=domain))


def test_own_schema_reads_back_as_written(tmp_path):
    source = write(
        tmp_path / "mine.jsonl",
        {
            "prompt_id": "first é",
            "messages": [{"role": "system", "content": "s"}, *USER],
            "ground_truth": "42",
            "level": 3,
        },
        {"prompt": "p?", "answer": 70},
        "",
        {"problem": "q?", "ground_truth": {"tests": [1, "ü"]}, "answer": "kept", "domain": "other"},
        {"question": "r?", "answer": 0.5, "messages": None},
    )
    assert load(source, tmp_path) == [
        Prompt(
            "first é", ({"role": "system", "content": "s"}, USER[0]), "math", "42", {"level": 3}
        ),
        Prompt("mine/000001", ({"role": "user", "content": "p?"},), "math", "70", {}),
        Prompt(
            "mine/000002",
            ({"role": "user", "content": "q?"},),
            "math",
            '{"tests": [1, "ü"]}',
            {"answer": "kept", "domain": "other"},
        ),
        Prompt(
            "mine/000003", ({"role": "user", "content": "r?"},), "math", "0.5", {"messages": None}
        ),
    ]


def test_random_access(tmp_path):
    source = write(tmp_path / "many.jsonl", *({"prompt": f"{i}?", "answer": i} for i in range(300)))
    data = prepare(source, tmp_path / "prepared", domain="math")
    assert len(data) == 300
    assert [data[i].ground_truth for i in (7, 299, 0, -1)] == ["7", "299", "0", "299"]
    assert [prompt.prompt_id for prompt in data] == [f"many/{i:06d}" for i in range(300)]
    with pytest.raises(IndexError):
        data[300]


@pytest.mark.parametrize(
    "row, ground_truth, extra",
    [
        ({"question": "q?", "answer": "6*7 = <<6*7=42>>42\n#### 42"}, "42", ["answer"]),
        ({"question": "q?", "answer": "so\n#### 2,125"}, "2125", ["answer"]),
        ({"question": "q?", "answer": "so\n#### (1,2)"}, "(1,2)", ["answer"]),
        ({"question": "q?", "answer": "2,125"}, "2,125", []),  # no separator: as it is
        ({"problem": "q?", "answer": "### and #### here"}, "### and #### here", []),  # not GSM8K
    ],
)
def test_gsm8k_separator(row, ground_truth, extra):
    parsed = rows.parse(row, "id")
    assert parsed["ground_truth"] == ground_truth
    assert list(parsed["extra"]) == extra
    assert "answer" not in extra or parsed["extra"]["answer"] == row["answer"]


def test_verl_parquet(tmp_path):
    source = tmp_path / "verl.parquet"
    row = {
        "data_source": "DeepMath",
        "prompt": USER,
        "ability": "math",
        "reward_model": {"ground_truth": "\\frac{1}{2}", "style": "rule"},
        "extra_info": {"index": 27136, "question": "?"},
        "__index_level_0__": 5,
    }
    pq.write_table(pa.Table.from_pylist([row, row]), source)
    extra = {
        "data_source": "DeepMath",
        "ability": "math",
        "reward_model": {"style": "rule"},
        "extra_info": {"index": 27136, "question": "?"},
    }
    expected = [
        Prompt(f"verl/{i:06d}", tuple(USER), "math", "\\frac{1}{2}", extra) for i in range(2)
    ]
    assert load(source, tmp_path) == expected


GOOD = {"prompt": "p?", "answer": "1"}


@pytest.mark.parametrize(
    "bad, message",
    [
        ('{"prompt": "p?", "answer"', "not valid JSON"),
        ("[1, 2]", "a row must be an object, this one is list"),
        ({"prompt": "p?"}, "no ground truth"),
        ({"prompt": "p?", "answer": None}, "no ground truth"),
        ({"prompt": "p?", "answer": "  "}, "answer is blank"),
        ({"question": "p?", "answer": "so ####"}, "answer is blank"),
        ({"prompt": "p?", "answer": True}, "answer must be a string, not True"),
        ('{"prompt": "p?", "answer": NaN}', "answer must be a string, not nan"),
        (
            {"task": "p?", "answer": "1"},
            "no prompt: wanted one of messages, prompt, question, problem, found task, answer",
        ),
        ({"prompt": 5, "answer": "1"}, "prompt must be a list of messages or a string, not 5"),
        ({"messages": "p?", "answer": "1"}, "messages must be a list of messages, not 'p\\?'"),
        ({"messages": ["p?"], "answer": "1"}, r"messages\[0\] must be an object"),
        (
            {"messages": [{"role": "user"}], "answer": "1"},
            r"messages\[0\].content must be a string, not None",
        ),
        (
            {"messages": [{**USER[0], "tool_calls": []}], "answer": "1"},
            r"messages\[0\] has tool_calls",
        ),
        (
            {"messages": [*USER, {"role": "assistant", "content": "42"}], "answer": "1"},
            "not end with the assistant's",
        ),
        (
            {"messages": [{"role": "system", "content": "s"}], "answer": "1"},
            "must hold a user message",
        ),
        ({"prompt": "p?", "answer": "1", "prompt_id": 7}, "prompt_id must be a string, not 7"),
        ('{"prompt": "\\ud800?", "answer": "1"}', "prompt is not valid Unicode"),
    ],
)
def test_bad_row_names_file_and_line(tmp_path, bad, message):
    source = write(tmp_path / "bad.jsonl", GOOD, "", bad, GOOD)
    with pytest.raises(ValueError, match=rf"bad\.jsonl:3: .*{message}"):
        load(source, tmp_path)


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match=r"empty\.jsonl: no rows"):
        load(write(tmp_path / "empty.jsonl"), tmp_path)
    with pytest.raises(ValueError, match=r"wanted a file ending in \.jsonl"):
        load(tmp_path / "rows.csv", tmp_path)
    with pytest.raises(ValueError, match=r"a\.parquet: not a readable parquet file"):
        load(write(tmp_path / "a.parquet", "text"), tmp_path)
    with pytest.raises(ValueError, match=r"absent\.jsonl': no such file"):
        load(tmp_path / "absent.jsonl", tmp_path)
    whole = gzip.compress(json.dumps(GOOD).encode() * 50)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz:1: not a whole gzip file"):
        load(tmp_path / "cut.jsonl.gz", tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9", "answer": "1"}\n')
    with pytest.raises(ValueError, match=r"latin\.jsonl:1: not valid JSON"):
        load(tmp_path / "latin.jsonl", tmp_path)
    pq.write_table(
        pa.Table.from_pylist([GOOD, {"prompt": "p?", "answer": None}]), tmp_path / "b.parquet"
    )
    with pytest.raises(ValueError, match=r"b\.parquet row 1: no ground truth"):
        load(tmp_path / "b.parquet", tmp_path)


def test_duplicate_ids_name_both_rows(tmp_path):
    source = write(
        tmp_path / "twice.jsonl", {**GOOD, "prompt_id": "a"}, GOOD, {**GOOD, "prompt_id": "a"}
    )
    with pytest.raises(
        ValueError, match=r"twice\.jsonl:3: prompt_id 'a' is already taken by .*twice\.jsonl:1$"
    ):
        load(source, tmp_path)
    source = write(tmp_path / "default.jsonl", GOOD, {**GOOD, "prompt_id": "default/000000"})
    with pytest.raises(
        ValueError, match=r"default\.jsonl:2: .* already taken by .*default\.jsonl:1$"
    ):
        load(source, tmp_path)


def test_same_content_is_built_once_and_changed_content_elsewhere(tmp_path, monkeypatch):
    builds = []
    build = datasets._build
    monkeypatch.setattr(
        datasets, "_build", lambda builder: (builds.append(builder.data_dir), build(builder))
    )
    source = write(tmp_path / "rows.jsonl", GOOD)
    first = prepare(source, tmp_path / "prepared", domain="math")
    again = prepare(source, str(tmp_path / "prepared"), domain="code")
    (tmp_path / "elsewhere").mkdir()
    packed = tmp_path / "elsewhere" / "rows.jsonl.gz"  # the same rows, packed, in another folder
    packed.write_bytes(gzip.compress(source.read_bytes()))
    unpacked = prepare(packed, tmp_path / "prepared", domain="math")
    assert len(builds) == 1
    assert first.fingerprint == again.fingerprint == unpacked.fingerprint
    assert (first[0].domain, again[0].domain) == ("math", "code")
    write(source, {**GOOD, "answer": "2"})
    changed = prepare(source, tmp_path / "prepared", domain="math")
    assert len(set(builds)) == 2
    assert changed.fingerprint != first.fingerprint
    assert (first[0].ground_truth, changed[0].ground_truth) == (
        "1",
        "2",
    )  # the old one is still whole
    renamed = prepare(
        source.rename(tmp_path / "renamed.jsonl"), tmp_path / "prepared", domain="math"
    )
    assert renamed.fingerprint != changed.fingerprint  # other prompt ids, so other samples
    assert renamed[0].prompt_id == "renamed/000000"


def test_a_killed_build_leaves_nothing_half_read(tmp_path):
    source = write(tmp_path / "rows.jsonl", *({"prompt": f"{i}?", "answer": i} for i in range(50)))
    script = """
import os, sys
from gopd_jax.data import prepare, rows
read = rows.read
def dies(source):
    for i, row in enumerate(read(source)):
        if i == 30:
            os._exit(9)
        yield row
rows.read = dies
prepare(sys.argv[1], sys.argv[2], domain="math")
"""
    prepared = tmp_path / "prepared"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    died = subprocess.run(
        [sys.executable, "-c", script, source, prepared], env=environment, cwd=ROOT
    )
    assert died.returncode == 9
    assert list(prepared.rglob("incomplete*"))  # it did die in the middle
    assert [prompt.ground_truth for prompt in load(source, tmp_path)] == [str(i) for i in range(50)]


def test_a_failed_build_can_be_repeated(tmp_path, monkeypatch):
    source = write(tmp_path / "rows.jsonl", GOOD, GOOD)
    read = rows.read

    def fails(source):
        yield next(read(source))
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "read", fails)
    with pytest.raises(KeyboardInterrupt):
        load(source, tmp_path)
    monkeypatch.setattr(rows, "read", read)
    assert len(load(source, tmp_path)) == 2


def test_two_builds_at_once(tmp_path, monkeypatch):
    source = write(tmp_path / "rows.jsonl", GOOD, {**GOOD, "answer": "2"})
    read = rows.read

    def slow(path):  # while this build runs, another one starts and finishes
        monkeypatch.setattr(rows, "read", read)
        assert len(load(source, tmp_path)) == 2
        yield from read(path)

    monkeypatch.setattr(rows, "read", slow)
    assert [prompt.ground_truth for prompt in load(source, tmp_path)] == ["1", "2"]


def test_generated_source(tmp_path, monkeypatch):
    made = [
        {"prompt": "1 + 1 =", "ground_truth": "2", "level": 1},
        {"prompt": "2 + 2 =", "ground_truth": "4"},
    ]
    calls = []
    tasks = types.ModuleType("gopd_jax.tiny.tasks")
    lines = lambda: b"".join(json.dumps(row).encode() + b"\n" for row in made)  # noqa: E731
    tasks.json_lines = lambda name, split: (calls.append((name, split)), lines())[1]
    tiny = types.ModuleType("gopd_jax.tiny")
    tiny.tasks = tasks
    monkeypatch.setitem(sys.modules, "gopd_jax.tiny", tiny)
    monkeypatch.setitem(sys.modules, "gopd_jax.tiny.tasks", tasks)
    data = prepare("tiny:sums/train", tmp_path / "prepared", domain="math")
    assert set(calls) == {("sums", "train")}
    assert list(data) == [
        Prompt(
            "sums/train/000000",
            ({"role": "user", "content": "1 + 1 ="},),
            "math",
            "2",
            {"level": 1},
        ),
        Prompt("sums/train/000001", ({"role": "user", "content": "2 + 2 ="},), "math", "4", {}),
    ]
    made[1] = {"prompt": "2 + 2 =", "ground_truth": "four"}
    changed = prepare("tiny:sums/train", tmp_path / "prepared", domain="math")
    assert (changed[1].ground_truth, data[1].ground_truth) == ("four", "4")
    with pytest.raises(ValueError, match="wanted tiny:NAME/SPLIT"):
        prepare("tiny:sums", tmp_path / "prepared", domain="math")


@pytest.mark.parametrize(
    "name, count, prompt_start, ground_truth",
    [
        ("gsm8k_test.jsonl", 1319, "Janet’s ducks lay 16 eggs", "18"),
        ("gsm8k_train.jsonl", 7473, "Natalia sold clips", "72"),
        ("aime24.jsonl", 30, "Every morning Aya", "204"),
        ("aime25.jsonl", 30, "Find the sum of all integer bases", "70"),
        ("hmmt25_feb.jsonl", 30, "Compute the sum of the positive divisors", "103"),
        ("hmmt25_nov.jsonl", 30, "Let $ABCD$ be a rectangle", "3"),
    ],
)
def test_real_data_sets(shared_data, tmp_path, name, count, prompt_start, ground_truth):
    data = prepare(shared_data / name, tmp_path, domain="math")
    assert len(data) == count
    assert data[0].messages[0]["content"].startswith(prompt_start)
    assert data[0].ground_truth == ground_truth
    assert data[count - 1].prompt_id == f"{name.rsplit('.', 1)[0]}/{count - 1:06d}"
    if name.startswith("gsm8k"):
        assert all(prompt.ground_truth.lstrip("-").replace(".", "", 1).isdigit() for prompt in data)


def test_deepmath(deepmath):
    assert len(deepmath) == 14116
    assert deepmath[0].messages[0]["content"].startswith("Find \\( \\frac{dy}{dx} \\)")
    assert (deepmath[0].ground_truth, deepmath[0].extra["extra_info"]["index"]) == ("8", 27136)
    assert (deepmath[14115].prompt_id, deepmath[14115].ground_truth) == (
        "deepmath_14k/014115",
        "\\dfrac{a}{2}",
    )
