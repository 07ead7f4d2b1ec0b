"""Prompts -> encoded prompts -> an endless, resumable stream of requests, one list per step.

`encode_all` tokenises a data set once and drops what is too long. `PromptStream` shuffles each domain, visits every prompt
once per epoch, deals the domains out in stated shares, and turns each prompt into G requests. A step's requests are a
function of (seed, step) alone, so the state is one number; no worker processes, no threads.
"""

from collections.abc import Iterator, Mapping, Sequence
import copy
import dataclasses
from fractions import Fraction
import hashlib
import math
import sys
from typing import Any

import grain
import numpy as np

from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.types import EncodedPrompt, Prompt, Request

ENCODE_BATCH = 512  # chats per tokenizer call
MAX_CYCLE = 100_000  # longest repeating pattern of domains


@dataclasses.dataclass(frozen=True)
class FilterReport:
    """What `encode_all` dropped: `too_long` holds (prompt_id, tokens) of each prompt over the limit."""

    total: int
    kept: int
    too_long: tuple[tuple[str, int], ...]


class EncodedPrompts(Sequence[EncodedPrompt]):
    """The kept prompts in order: ids and tokens in memory, the rest read from `prompts` when asked for."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        indices: Sequence[int],
        tokens: Sequence[np.ndarray],
        names: Sequence[tuple[str, str]],
    ):
        self._prompts, self._indices, self._tokens = prompts, indices, tokens
        self.names = names  # (prompt id, domain) of each

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> EncodedPrompt:
        return EncodedPrompt(self._prompts[self._indices[index]], self._tokens[index])


def encode_all(
    prompts: Sequence[Prompt], tokenizer: ChatTokenizer, suffix: str, max_prompt_tokens: int
) -> tuple[EncodedPrompts, FilterReport]:
    """Tokenises every prompt and leaves out, never cuts, those of more than `max_prompt_tokens` ids.

    Args:
      prompts: the data set of one domain.
      tokenizer: its `encode_prompts` applies the chat template.
      suffix: appended to the last user message.
      max_prompt_tokens: longest prompt kept, template and generation prompt included.

    Raises:
      ValueError: a row that names another domain than the one it was loaded for, or no prompt is left.
    """
    indices, tokens, names, too_long = [], [], [], []
    for start in range(0, len(prompts), ENCODE_BATCH):
        batch = [prompts[i] for i in range(start, min(start + ENCODE_BATCH, len(prompts)))]
        for prompt in batch:
            if prompt.extra.get("domain", prompt.domain) != prompt.domain:
                raise ValueError(
                    f"prompt {prompt.prompt_id!r} says domain {prompt.extra['domain']!r}, its file is for {prompt.domain!r}; "
                    "split the file by domain, or its teacher would be the wrong one"
                )
        for i, ids in enumerate(
            tokenizer.encode_prompts([prompt.messages for prompt in batch], suffix)
        ):
            if len(ids) > max_prompt_tokens:
                too_long.append((batch[i].prompt_id, len(ids)))
            else:
                indices.append(start + i)
                tokens.append(ids)
                names.append((batch[i].prompt_id, batch[i].domain))
    if not indices:
        shortest = min((length for _, length in too_long), default=0)
        raise ValueError(
            f"none of {len(prompts)} prompts fits max_prompt_tokens={max_prompt_tokens}: the shortest has {shortest} tokens"
        )
    return EncodedPrompts(prompts, indices, tokens, names), FilterReport(
        len(prompts), len(indices), tuple(too_long)
    )


class PromptStream:
    """Endless iterator of `list[Request]`, `prompts_per_step * samples_per_prompt` long, G requests of a prompt in a row.

    Each domain is reshuffled every epoch. Domains take turns in a fixed cycle as long as the sum of the reduced shares
    (1:1 -> 2, 0.7:0.3 -> 10): every batch that is a multiple of the cycle holds the shares exactly, and any other batch is
    off by less than one cycle. A prompt met again within a step goes on counting its `sample_id`.

    Args:
      domains: encoded prompts by domain; prompt ids must differ across all of them.
      prompts_per_step: prompts of one batch. samples_per_prompt: requests per prompt (G).
      max_response_tokens: `max_tokens` of every request.
      seed: decides the order, together with the names of the domains.
      shares: relative share of each domain, such as {"math": 2, "code": 1}; equal when None.
    """

    def __init__(
        self,
        domains: Mapping[str, Sequence[EncodedPrompt]],
        prompts_per_step: int,
        samples_per_prompt: int,
        max_response_tokens: int,
        seed: int,
        shares: Mapping[str, float] | None = None,
    ):
        sizes = {
            "prompts_per_step": prompts_per_step,
            "samples_per_prompt": samples_per_prompt,
            "max_response_tokens": max_response_tokens,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")
        domains = dict(
            sorted(domains.items())
        )  # the order in which a config names its domains changes nothing
        weights = _whole_weights(domains, shares)
        self._samples_per_prompt = samples_per_prompt
        self._max_response_tokens = max_response_tokens
        self._identity = {
            "prompts": _fingerprint(domains),
            "prompts_per_step": prompts_per_step,
            "samples_per_prompt": samples_per_prompt,
            "seed": seed,
            "shares": dict(zip(domains, weights, strict=True)),
        }
        shuffled = [
            # grain's seed of an epoch is seed + epoch: hashing keeps seeds 0 and 1, and two domains, apart
            grain.MapDataset.source(prompts).shuffle(seed=_seed32(seed, name)).repeat()
            for name, prompts in domains.items()
        ]
        mixed = grain.MapDataset.select_from_datasets(shuffled, _Turns(weights))
        self._batches = mixed.batch(prompts_per_step, batch_fn=list)
        self._step = 0

    def __iter__(self) -> "PromptStream":
        return self

    def __next__(self) -> list[Request]:
        requests: list[Request] = []
        drawn: dict[str, int] = {}
        for encoded in self._batches[self._step]:
            first = drawn.get(encoded.source.prompt_id, 0)
            drawn[encoded.source.prompt_id] = first + self._samples_per_prompt
            ids = range(first, first + self._samples_per_prompt)
            requests.extend(
                Request(encoded, sample_id, self._max_response_tokens) for sample_id in ids
            )
        self._step += 1
        return requests

    def get_state(self) -> dict[str, Any]:
        """JSON-serialisable: the steps taken, and what the stream was made of."""
        return {"step": self._step, "stream": copy.deepcopy(self._identity)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where the stream that gave `state` was; ValueError if it was another stream."""
        step, stream = state.get("step"), state.get("stream")
        if not isinstance(step, int) or step < 0 or not isinstance(stream, Mapping):
            raise ValueError(f"not a state of a PromptStream: {state!r}")
        differ = [key for key in self._identity if stream.get(key) != self._identity[key]]
        if differ:
            pairs = "; ".join(
                f"{key}: {stream.get(key)!r} then, {self._identity[key]!r} now" for key in differ
            )
            raise ValueError(
                f"the state belongs to another prompt stream, it cannot be continued exactly: {pairs}"
            )
        self._step = step


class _Turns(grain.transforms.DatasetSelectionMap):
    """Position in the mix -> (domain, position in that domain), by a cycle that spreads each domain evenly.

    Not `grain.MapDataset.mix`: it scales shares to whole numbers by truncation (0.7:0.3 becomes 233:100), which drifts.
    """

    def __init__(self, weights: Sequence[int]):
        turns = sorted(
            (Fraction(2 * turn + 1, 2 * weight), d)
            for d, weight in enumerate(weights)
            for turn in range(weight)
        )
        self._weights, seen, self._cycle = weights, [0] * len(weights), []
        for _, d in turns:
            self._cycle.append((d, seen[d]))
            seen[d] += 1

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[int, int]:
        cycle, place = divmod(index, len(self._cycle))
        d, offset = self._cycle[place]
        return d, cycle * self._weights[d] + offset


def _whole_weights(domains: Mapping[str, Any], shares: Mapping[str, float] | None) -> list[int]:
    """Shares -> the smallest whole numbers in the same proportion, in the order of `domains`."""
    shares = dict.fromkeys(domains, 1) if shares is None else shares
    if not domains or shares.keys() != domains.keys():
        raise ValueError(
            f"shares are for {sorted(shares)}, the domains are {sorted(domains)}: name the same, at least one"
        )
    if not all(math.isfinite(share) and share > 0 for share in shares.values()):
        raise ValueError(f"shares must be above 0, leave a domain out instead: {dict(shares)}")
    smallest = min(shares.values())
    ratios = [Fraction(shares[name] / smallest).limit_denominator(1000) for name in domains]
    scale = math.lcm(*(ratio.denominator for ratio in ratios))
    weights = [int(ratio * scale) for ratio in ratios]
    if sum(weights) > MAX_CYCLE:
        raise ValueError(
            f"shares {dict(shares)} have no small common measure: write them as small whole numbers, such as 2 and 1"
        )
    return weights


def _fingerprint(domains: Mapping[str, Sequence[EncodedPrompt]]) -> str:
    """sha256 hex of domains, prompt ids and token ids in order; checks on the way that ids are unique and domains agree."""
    digest, owner = hashlib.sha256(), {}
    for name, prompts in domains.items():
        if len(prompts) == 0:
            raise ValueError(f"domain {name!r} has no prompts")
        for prompt_id, domain, tokens in _identities(prompts):
            if domain != name:
                raise ValueError(
                    f"prompt {prompt_id!r} given under domain {name!r} says its domain is {domain!r}"
                )
            if prompt_id in owner:
                raise ValueError(
                    f"prompt_id {prompt_id!r} is in domain {owner[prompt_id]!r} and again in {name!r}: ids must be unique in a "
                    "run; give the rows a prompt_id, or their files different names"
                )
            owner[prompt_id] = name
            digest.update(f"{name}\0{prompt_id}\0{len(tokens)}\0".encode() + tokens.tobytes())
    return digest.hexdigest()


def _identities(prompts: Sequence[EncodedPrompt]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(prompt id, domain, tokens) of each; from memory where they are there: reading 16,000 rows takes seconds."""
    if isinstance(prompts, EncodedPrompts):
        yield from (
            (*name, tokens) for name, tokens in zip(prompts.names, prompts._tokens, strict=True)
        )
    else:
        yield from ((e.source.prompt_id, e.source.domain, e.tokens) for e in prompts)


def _seed32(seed: int, domain: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{domain}".encode()).digest()[:4], "little")
