"""The samples that the page shows, spread over the run and cut to what one page can carry.

In: a `Run`. Out: plain JSON values, token by token.
"""

from collections.abc import Collection, Sequence
import math
from typing import TypeVar

import numpy as np

from gopd_jax.report.numbers import short
from gopd_jax.report.read import Run, number
from gopd_jax.runtime.files import JsonObject

TOTAL_TOKENS = 30_000  # of all samples of a page: about 1.5 MB at 50 bytes a token
MAX_SAMPLES = 24  # of a run
MAX_TOKENS = 600  # of a sample; the middle of a longer one is left out
MAX_CHARACTERS = 2000  # of a prompt, a ground truth, a verdict
SampleKey = tuple[float, str, str, float]  # step, domain, prompt id, sample id
T = TypeVar("T")

LOGPROBS = ("student", "teacher", "reference", "behaviour")


def shared_keys(runs: Sequence[Run]) -> set[SampleKey]:
    """The samples that all runs wrote: same domain, prompt, sample id and step."""
    keys = [{_key(record) for record in run.samples} for run in runs]
    return set.intersection(*keys) if len(keys) > 1 else set()


def samples(run: Run, tokens: int, shared: Collection[SampleKey] = ()) -> list[JsonObject]:
    """Samples spread evenly over those that the run wrote, with at most `tokens` tokens in all.

    Args:
        run: the run.
        tokens: of all its samples.
        shared: samples that half of those shown are taken from, the same ones for every run.
    """
    in_common = sorted((_key(r), i) for i, r in enumerate(run.samples) if _key(r) in shared)
    chosen = {i for _, i in _spread(in_common, MAX_SAMPLES // 2)}
    others = [i for i in range(len(run.samples)) if i not in chosen]
    indices = sorted(chosen | set(_spread(others, MAX_SAMPLES - len(chosen))))
    shown = []
    for done, index in enumerate(indices):
        share = tokens // (len(indices) - done)
        sample = _sample(run.samples[index], min(MAX_TOKENS, share))
        tokens -= len(sample["tokens"])
        shown.append(sample)
    return shown


def _key(record: JsonObject) -> SampleKey:
    step, sample_id = (number(record.get(key)) for key in ("step", "sample_id"))
    return step, str(record.get("domain")), str(record.get("prompt_id")), sample_id


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spread."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[i] for i in sorted({round(place) for place in places})]


def _sample(record: JsonObject, limit: int) -> JsonObject:
    """One sample with at most `limit` tokens: the first half of them and the last."""
    texts = [str(t) for t in record["tokens"]] if isinstance(record["tokens"], list) else []
    kept = list(range(len(texts)))
    left_out = None  # [after how many tokens, how many]
    if len(texts) > limit:
        kept = [*range(limit // 2), *range(len(texts) - limit // 2, len(texts))]
        left_out = [limit // 2, len(texts) - len(kept)]
    sample = {key: record.get(key) for key in ("step", "domain", "sample_id", "finish_reason")}
    for key in ("prompt_id", "prompt", "ground_truth", "verdict"):
        sample[key] = _cut(str(record.get(key, "")))
    sample["reward"] = short(number(record.get("reward")))
    sample |= {"tokens": [texts[i] for i in kept], "left_out": left_out}
    fields = {"advantage": "advantages"} | {name: f"{name}_logprobs" for name in LOGPROBS}
    for name, field in fields.items():
        values = record.get(field)
        if isinstance(values, list) and len(values) == len(texts):
            sample[name] = [_thousandths(values[i]) for i in kept]
    return sample


def _thousandths(value: object) -> float | None:
    return round(number(value), 3) if math.isfinite(number(value)) else None


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} ... ({len(text) - MAX_CHARACTERS:,} more characters)"
