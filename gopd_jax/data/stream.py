"""Encoded prompts -> an endless, resumable stream of requests, one list per step.

In: the encoded prompts of each domain. Out: the requests of each step. `PromptStream` shuffles each
domain, visits every prompt once per epoch, mixes the domains in the given shares, and turns each
prompt into G requests. The requests of a step are a function of the seed and the step alone, so the
state is one number. Uses no worker processes and no threads.
"""

from collections.abc import Collection, Mapping, Sequence
import copy
from fractions import Fraction
import hashlib
import math
import sys

import grain

from gopd_jax.data.encode import identities
from gopd_jax.types import EncodedPrompt, Request

MAX_CYCLE = 100_000  # longest repeating pattern of domains


class PromptStream:
    """Endless iterator over the requests of each step.

    A step has `prompts_per_step * samples_per_prompt` requests; the G requests of a prompt follow
    each other. Each domain is reshuffled every epoch. The domains take turns in a fixed cycle, as
    long as the sum of the reduced shares (1:1 -> 2, 0.7:0.3 -> 10): a batch whose size is a
    multiple of the cycle holds the shares exactly, and any other batch is off by less than one
    cycle. If a prompt occurs again within a step, its `sample_id` continues to count.

    Args:
        domains: encoded prompts by domain. Prompt ids must be unique across all of them.
        prompts_per_step: number of prompts in one step.
        samples_per_prompt: requests per prompt (G).
        max_response_tokens: `max_tokens` of every request.
        seed: decides the order, together with the names of the domains.
        shares: relative share of each domain, such as {"math": 2, "code": 1}; None shares equally.

    Raises:
        ValueError: a size below 1, a domain without prompts, a prompt under the wrong domain, a
            repeated prompt id, or shares that do not fit the domains.
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
        # Sorted, so that the order in which a config names its domains changes nothing.
        domains = dict(sorted(domains.items()))
        weights = _whole_weights(domains, shares)
        self._samples_per_prompt = samples_per_prompt
        self._max_response_tokens = max_response_tokens
        self._identity: dict[str, object] = {
            "prompts": _fingerprint(domains),
            "prompts_per_step": prompts_per_step,
            "samples_per_prompt": samples_per_prompt,
            "seed": seed,
            "shares": dict(zip(domains, weights, strict=True)),
        }
        # grain shuffles an epoch with seed + epoch: hashed seeds keep seeds 0 and 1, and two
        # domains, apart.
        shuffled = [
            grain.MapDataset.source(prompts).shuffle(seed=_seed32(seed, name)).repeat()
            for name, prompts in domains.items()
        ]
        mixed = grain.MapDataset.select_from_datasets(shuffled, _Turns(weights))
        self._batches = mixed.batch(prompts_per_step, batch_fn=list)
        self._step = 0
        self._ahead: tuple[int, list[Request]] | None = None  # a step, and its requests

    def __iter__(self) -> "PromptStream":
        return self

    def __next__(self) -> list[Request]:
        ahead, self._ahead = self._ahead, None
        known = ahead is not None and ahead[0] == self._step
        requests = ahead[1] if known else self._requests(self._step)
        self._step += 1
        return requests

    def read_ahead(self) -> None:
        """Makes the requests of the next step now, so that they are there when they are asked for.

        For a moment in which the host has nothing else to do; the state stays as it is.
        """
        self._ahead = self._step, self._requests(self._step)

    def _requests(self, step: int) -> list[Request]:
        requests: list[Request] = []
        drawn: dict[str, int] = {}
        for encoded in self._batches[step]:
            first = drawn.get(encoded.source.prompt_id, 0)
            drawn[encoded.source.prompt_id] = first + self._samples_per_prompt
            for sample_id in range(first, first + self._samples_per_prompt):
                requests.append(Request(encoded, sample_id, self._max_response_tokens))
        return requests

    def get_state(self) -> dict[str, object]:
        """Returns the number of steps taken and what the stream was made of, as plain JSON."""
        return {"step": self._step, "stream": copy.deepcopy(self._identity)}

    def set_state(self, state: Mapping[str, object]) -> None:
        """Continues exactly where the stream that returned `state` was.

        Raises:
            ValueError: not a state, or the state of another stream; the stream is then unchanged.
        """
        step, stream = state.get("step"), state.get("stream")
        if not isinstance(step, int) or step < 0 or not isinstance(stream, Mapping):
            raise ValueError(f"not a state of a PromptStream: {state!r}")
        differ = [key for key in self._identity if stream.get(key) != self._identity[key]]
        if differ:
            pairs = "; ".join(
                f"{key}: {stream.get(key)!r} then, {self._identity[key]!r} now" for key in differ
            )
            raise ValueError(
                "the state belongs to another prompt stream, it cannot be continued exactly: "
                f"{pairs}"
            )
        self._step = step


class _Turns(grain.transforms.DatasetSelectionMap):
    """Position in the mix -> (domain, position in that domain), with each domain spread evenly.

    This replaces `grain.MapDataset.mix`, which truncates scaled shares to whole numbers (0.7:0.3
    becomes 233:100) and so drifts.
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


def _whole_weights(domains: Collection[str], shares: Mapping[str, float] | None) -> list[int]:
    """Shares -> the smallest whole numbers in the same proportion, in the order of `domains`."""
    shares = dict.fromkeys(domains, 1) if shares is None else shares
    if not domains or shares.keys() != set(domains):
        raise ValueError(
            f"shares are for {sorted(shares)}, the domains are {sorted(domains)}: name the same, "
            "at least one"
        )
    if not all(math.isfinite(share) and share > 0 for share in shares.values()):
        raise ValueError(f"shares must be above 0, leave a domain out instead: {dict(shares)}")
    smallest = min(shares.values())
    ratios = [Fraction(shares[name] / smallest).limit_denominator(1000) for name in domains]
    scale = math.lcm(*(ratio.denominator for ratio in ratios))
    weights = [int(ratio * scale) for ratio in ratios]
    if sum(weights) > MAX_CYCLE:
        raise ValueError(
            f"shares {dict(shares)} have no small common measure: write them as small whole "
            "numbers, such as 2 and 1"
        )
    return weights


def _fingerprint(domains: Mapping[str, Sequence[EncodedPrompt]]) -> str:
    """sha256 hex of domains, prompt ids and token ids in order.

    Raises:
        ValueError: no prompts, a prompt of another domain, or a repeated prompt id.
    """
    digest, owner = hashlib.sha256(), {}
    for name, prompts in domains.items():
        if len(prompts) == 0:
            raise ValueError(f"domain {name!r} has no prompts")
        for prompt_id, domain, tokens, _ in identities(prompts):
            if domain != name:
                raise ValueError(
                    f"prompt {prompt_id!r} given under domain {name!r} says its domain is "
                    f"{domain!r}"
                )
            if prompt_id in owner:
                raise ValueError(
                    f"prompt_id {prompt_id!r} is in domain {owner[prompt_id]!r} and again in "
                    f"{name!r}: ids must be unique in a run; give the rows a prompt_id, or their "
                    "files different names"
                )
            owner[prompt_id] = name
            digest.update(f"{name}\0{prompt_id}\0{len(tokens)}\0".encode() + tokens.tobytes())
    return digest.hexdigest()


def _seed32(seed: int, domain: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{domain}".encode()).digest()[:4], "little")
