"""Sources of several files and of the hub."""

from data_cases import sums, write
import huggingface_hub
import pytest

from gopd_jax.data import rows, sources
from gopd_jax.data.datasets import prepare
from gopd_jax.evaluate import suites


@pytest.mark.parametrize("source", ["data", "data/*.jsonl"])
def test_folders_and_patterns_are_read_in_the_order_of_their_names(tmp_path, source):
    for name, start in (("b.jsonl", 5), ("a.jsonl", 0), ("other.txt", 90)):
        write(tmp_path / "data" / name, sums(start, 5))
    found = list(rows.read(str(tmp_path / source)))
    assert [r["ground_truth"] for r in found] == [str(i + 1) for i in range(10)]
    assert len({r["prompt_id"] for r in found}) == 10
    with pytest.raises(ValueError, match="no file there ends in"):
        sources.files(str(tmp_path / "data" / "*.parquet"))


def test_data_sets_of_the_hub(tmp_path, monkeypatch):
    folder = tmp_path / "snapshot"
    for i in range(2):
        write(folder / "data" / f"train-{i}.jsonl", sums(10 * i, 3))

    def hf_hub_download(repo, path, **_):
        assert repo == "owner/sums"
        return str(folder / path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(folder))
    pattern = "hf://datasets/owner/sums@v1/data/train-*.jsonl"
    file = "hf://datasets/owner/sums/data/train-1.jsonl"
    whole = prepare(pattern, tmp_path / "prepared", domain="math")
    assert [p.ground_truth for p in whole] == ["1", "2", "3", "11", "12", "13"]
    assert len(prepare(file, tmp_path / "prepared", domain="math")) == 3
    (benchmark,) = suites.load(file, "")
    assert (benchmark.name, benchmark.reward, len(benchmark.prompts)) == ("sums/train-1", "math", 3)


def test_a_data_set_of_the_hub_needs_owner_and_name():
    with pytest.raises(ValueError, match="expected hf://datasets/OWNER/NAME"):
        sources.files("hf://datasets/owner")


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def offline(*_, **__):
        raise OSError("offline\nmode")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ValueError, match=r"hub did not provide it.*\(offline mode\)") as error:
        sources.files("hf://datasets/owner/unreachable/a.jsonl")
    assert "\n" not in str(error.value)
