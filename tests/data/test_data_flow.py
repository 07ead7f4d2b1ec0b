"""The whole way from a file to requests."""

import gzip
from itertools import islice

from data_cases import run_script, write
import pytest

from gopd_jax.data.datasets import prepare
from gopd_jax.data.encode import encode_all
from gopd_jax.data.stream import PromptStream
from gopd_jax.data.tokenizer import ChatTokenizer


def test_end_to_end_without_tensorflow(tokenizer_folder, tmp_path):
    rows = [{"question": f"{i} + {i}?", "answer": f"#### {2 * i}"} for i in range(6)]
    source, prepared = write(tmp_path / "rows.jsonl", rows), tmp_path / "prepared"
    script = """
import sys
from gopd_jax.data.datasets import prepare
from gopd_jax.data.encode import encode_all
from gopd_jax.data.stream import PromptStream
from gopd_jax.data.tokenizer import ChatTokenizer
source, prepared, tokenizer = sys.argv[1:]
data = prepare(source, prepared, domain="math")
kept, report = encode_all(data, ChatTokenizer.load(tokenizer), " think", 100)
stream = PromptStream({"math": kept}, 6, 2, 8, seed=0)
next(stream)
step = next(stream)
truths = sorted(r.prompt.source.ground_truth for r in step)
assert truths == sorted(2 * ["0", "2", "4", "6", "8", "10"])
assert "tensorflow" not in sys.modules
print([r.key.prompt_id for r in step])
"""
    done = run_script(script, source, prepared, tokenizer_folder)
    assert done.returncode == 0, done.stderr
    # This process reuses what that one built, and draws the same.
    data = prepare(source, prepared, domain="math")
    kept, _ = encode_all(data, ChatTokenizer.load(tokenizer_folder), " think", 100)
    _, step = islice(PromptStream({"math": kept}, 6, 2, 8, seed=0), 2)
    assert done.stdout == f"{[r.key.prompt_id for r in step]}\n"  # and TFDS printed nothing


@pytest.mark.slow
def test_real_tokenizer_on_deepmath(shared_data, deepmath, tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    packed = (shared_data / "deepseek_tokenizer.json.gz").read_bytes()
    (folder / "tokenizer.json").write_bytes(gzip.decompress(packed))
    template = (shared_data / "qwen3_chat_template.jinja").read_text()
    tokenizer = ChatTokenizer.load(folder, extra_stop_ids=[1], chat_template=template)
    assert tokenizer.stop_ids == (1,)
    kept, report = encode_all(deepmath, tokenizer, "", max_prompt_tokens=512)
    assert report.total == 14116 == report.kept + len(report.too_long)
    assert report.too_long and all(length > 512 for _, length in report.too_long)
    one = kept[1000]
    text = (
        f"<|im_start|>user\n{one.source.messages[0]['content']}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert tokenizer.decode(one.tokens, skip_special_tokens=False) == text
    stream = PromptStream({"math": kept}, 1024, 1, 16384, seed=0)
    seen = {r.key.prompt_id for _ in range(3) for r in next(stream)}
    assert len(seen) == 3 * 1024  # no prompt is repeated within the first epoch
