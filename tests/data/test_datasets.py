"""Source files as prepared data sets: what is read, what is refused, and when a build is reused."""

import gzip
import json

from data_cases import run_script, write
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gopd_jax.data import datasets, embedded, rows
from gopd_jax.data.datasets import GopdPrompts, prepare
from gopd_jax.types import Prompt

USER = [{"role": "user", "content": "6 * 7?"}]
GOOD = {"prompt": "p?", "answer": "1"}


def load(path, tmp_path, domain="math") -> list[Prompt]:
    return list(prepare(path, tmp_path / "prepared", domain=domain))


def test_own_schema_reads_back_as_written(tmp_path):
    system = {"role": "system", "content": "s"}
    lines = [
        {"prompt_id": "first é", "messages": [system, *USER], "ground_truth": "42", "level": 3},
        {"prompt": "p?", "answer": 70},
        "",
        {"problem": "q?", "ground_truth": {"tests": [1, "ü"]}, "answer": "kept", "domain": "other"},
        {"question": "r?", "answer": 0.5, "messages": None},
    ]
    p, q, r = (({"role": "user", "content": text},) for text in ("p?", "q?", "r?"))
    extra = {"answer": "kept", "domain": "other"}
    assert load(write(tmp_path / "mine.jsonl", lines), tmp_path) == [
        Prompt("first é", (system, USER[0]), "math", "42", {"level": 3}),
        Prompt("mine/000001", p, "math", "70", {}),
        Prompt("mine/000002", q, "math", '{"tests": [1, "ü"]}', extra),
        Prompt("mine/000003", r, "math", "0.5", {"messages": None}),
    ]


def test_random_access(tmp_path):
    source = write(tmp_path / "many.jsonl", ({"prompt": f"{i}?", "answer": i} for i in range(300)))
    data = prepare(source, tmp_path / "prepared", domain="math")
    assert len(data) == 300
    assert [data[i].ground_truth for i in (7, 299, 0, -1)] == ["7", "299", "0", "299"]
    assert [prompt.prompt_id for prompt in data] == [f"many/{i:06d}" for i in range(300)]
    with pytest.raises(IndexError):
        data[300]


def test_rows_stay_in_memory_as_far_as_there_is_room(tmp_path, monkeypatch):
    lines = [{"prompt": f"{i}?", "answer": "9" * (9000 if i == 1 else 1)} for i in range(6)]
    monkeypatch.setattr(datasets, "KEPT_BYTES", 10_000)
    data = prepare(write(tmp_path / "few.jsonl", lines), tmp_path / "prepared", domain="math")
    first, again = list(data), list(data)
    assert again == first
    # A row counts 2,000 bytes and its text; the long one is too large for what is left.
    assert [a is b for a, b in zip(first, again, strict=True)] == [
        True,
        False,
        True,
        True,
        True,
        False,
    ]
    assert data[-6] is first[0]


@pytest.mark.parametrize(
    "row, ground_truth, extra",
    [
        ({"question": "q?", "answer": "6*7 = <<6*7=42>>42\n#### 42"}, "42", ["answer"]),
        ({"question": "q?", "answer": "so\n#### 2,125"}, "2125", ["answer"]),
        ({"question": "q?", "answer": "so\n#### (1,2)"}, "(1,2)", ["answer"]),
        ({"question": "q?", "answer": "2,125"}, "2,125", []),  # no separator: unchanged
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
    kept = ("data_source", "ability", "extra_info")
    extra = {name: row[name] for name in kept} | {"reward_model": {"style": "rule"}}
    assert load(source, tmp_path) == [
        Prompt(f"verl/{i:06d}", tuple(USER), "math", "\\frac{1}{2}", extra) for i in range(2)
    ]


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
            "no prompt: expected one of messages, prompt, question, problem, found task, answer",
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
    source = write(tmp_path / "bad.jsonl", [GOOD, "", bad, GOOD])
    with pytest.raises(ValueError, match=rf"bad\.jsonl:3: .*{message}"):
        load(source, tmp_path)


ROWS = json.dumps(GOOD).encode() * 50
PACKED = gzip.compress(ROWS, mtime=0)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.jsonl", b"", r"empty\.jsonl: no rows"),
        ("rows.csv", None, r"expected a file ending in \.jsonl"),
        ("a.parquet", b"text\n", r"a\.parquet: not a readable parquet file"),
        ("absent.jsonl", None, r"absent\.jsonl': no such file"),
        ("cut.jsonl.gz", PACKED[: len(PACKED) // 2], r"cut\.jsonl\.gz:1: not a whole gzip file"),
        ("latin.jsonl", b'{"prompt": "\xe9", "answer": "1"}\n', r"latin\.jsonl:1: not valid JSON"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / name, tmp_path)


def test_a_bad_row_of_a_parquet_file_is_named(tmp_path):
    source = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD, {"prompt": "p?", "answer": None}]), source)
    with pytest.raises(ValueError, match=r"b\.parquet row 1: no ground truth"):
        load(source, tmp_path)


@pytest.mark.parametrize(
    "ids, message",
    [
        (("a", None, "a"), r"rows\.jsonl:3: prompt_id 'a' is already taken by .*rows\.jsonl:1$"),
        ((None, "rows/000000"), r"rows\.jsonl:2: .* already taken by .*rows\.jsonl:1$"),
    ],
)
def test_duplicate_ids_name_both_rows(tmp_path, ids, message):
    lines = [GOOD if i is None else {**GOOD, "prompt_id": i} for i in ids]
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "rows.jsonl", lines), tmp_path)


@pytest.fixture
def builds(monkeypatch):
    """The folder of each data set that is built."""
    folders = []
    build = GopdPrompts.download_and_prepare

    def recorded(builder):
        folders.append(builder.data_dir)
        build(builder)

    monkeypatch.setattr(GopdPrompts, "download_and_prepare", recorded)
    return folders


def test_same_content_is_built_once(tmp_path, builds):
    source = write(tmp_path / "rows.jsonl", [GOOD])
    first = prepare(source, tmp_path / "prepared", domain="math")
    again = prepare(source, str(tmp_path / "prepared"), domain="code")
    (tmp_path / "elsewhere").mkdir()
    packed = tmp_path / "elsewhere" / "rows.jsonl.gz"  # the same rows, packed, in another folder
    packed.write_bytes(gzip.compress(source.read_bytes(), mtime=0))
    unpacked = prepare(packed, tmp_path / "prepared", domain="math")
    assert len(builds) == 1
    assert first.fingerprint == again.fingerprint == unpacked.fingerprint
    assert (first[0].domain, again[0].domain) == ("math", "code")


def test_changed_content_is_built_elsewhere(tmp_path, builds):
    source = write(tmp_path / "rows.jsonl", [GOOD])
    first = prepare(source, tmp_path / "prepared", domain="math")
    write(source, [{**GOOD, "answer": "2"}])
    changed = prepare(source, tmp_path / "prepared", domain="math")
    assert len(set(builds)) == 2
    assert changed.fingerprint != first.fingerprint
    assert (first[0].ground_truth, changed[0].ground_truth) == ("1", "2")  # the old one is intact
    renamed_source = source.rename(tmp_path / "renamed.jsonl")
    renamed = prepare(renamed_source, tmp_path / "prepared", domain="math")
    assert renamed.fingerprint != changed.fingerprint  # other prompt ids, so other samples
    assert renamed[0].prompt_id == "renamed/000000"


def test_a_killed_build_leaves_nothing_half_read(tmp_path):
    source = write(tmp_path / "rows.jsonl", ({"prompt": f"{i}?", "answer": i} for i in range(50)))
    script = """
import os, sys
from gopd_jax.data import rows
from gopd_jax.data.datasets import prepare
read = rows.read
def dies(source, *how):
    for i, row in enumerate(read(source, *how)):
        if i == 30:
            os._exit(9)
        yield row
rows.read = dies
prepare(sys.argv[1], sys.argv[2], domain="math")
"""
    prepared = tmp_path / "prepared"
    assert run_script(script, source, prepared).returncode == 9
    assert list(prepared.rglob("incomplete*"))  # it died in the middle
    assert [prompt.ground_truth for prompt in load(source, tmp_path)] == [str(i) for i in range(50)]


def test_a_failed_build_can_be_repeated(tmp_path, monkeypatch):
    source = write(tmp_path / "rows.jsonl", [GOOD, GOOD])
    read = rows.read

    def fails(source, *how):
        yield next(read(source, *how))
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "read", fails)
    with pytest.raises(KeyboardInterrupt):
        load(source, tmp_path)
    monkeypatch.setattr(rows, "read", read)
    assert len(load(source, tmp_path)) == 2


def test_two_builds_at_once(tmp_path, monkeypatch):
    source = write(tmp_path / "rows.jsonl", [GOOD, {**GOOD, "answer": "2"}])
    read = rows.read

    def slow(path, *how):  # while this build runs, another one starts and finishes
        monkeypatch.setattr(rows, "read", read)
        assert len(load(source, tmp_path)) == 2
        yield from read(path, *how)

    monkeypatch.setattr(rows, "read", slow)
    assert [prompt.ground_truth for prompt in load(source, tmp_path)] == ["1", "2"]


def test_generated_source(tmp_path, monkeypatch):
    made = [
        {"prompt": "1 + 1 =", "ground_truth": "2", "level": 1},
        {"prompt": "2 + 2 =", "ground_truth": "4"},
    ]
    calls = []

    def json_lines(name, split):
        calls.append((name, split))
        return b"".join(json.dumps(row).encode() + b"\n" for row in made)

    monkeypatch.setattr(embedded, "json_lines", json_lines)
    data = prepare("tiny:sums/train", tmp_path / "prepared", domain="math")
    assert set(calls) == {("sums", "train")}
    one, two = (({"role": "user", "content": row["prompt"]},) for row in made)
    assert list(data) == [
        Prompt("sums/train/000000", one, "math", "2", {"level": 1}),
        Prompt("sums/train/000001", two, "math", "4", {}),
    ]
    made[1] = {"prompt": "2 + 2 =", "ground_truth": "four"}
    changed = prepare("tiny:sums/train", tmp_path / "prepared", domain="math")
    assert (changed[1].ground_truth, data[1].ground_truth) == ("four", "4")
    with pytest.raises(ValueError, match="expected tiny:NAME/SPLIT"):
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
    first, last = deepmath[0], deepmath[14115]
    assert len(deepmath) == 14116
    assert first.messages[0]["content"].startswith("Find \\( \\frac{dy}{dx} \\)")
    assert (first.ground_truth, first.extra["extra_info"]["index"]) == ("8", 27136)
    assert (last.prompt_id, last.ground_truth) == ("deepmath_14k/014115", "\\dfrac{a}{2}")
