"""Verification in the background: answers are verified while others are still being drawn."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import dataclasses
from typing import Self

from gopd_jax.data.verifying import item
from gopd_jax.rewards.settings import NONE
from gopd_jax.rewards.verifier import Verdict, Verifier
from gopd_jax.runtime.processes import together
from gopd_jax.types import Rollout, SampleKey

Submitted = Future[dict[SampleKey, Verdict]]


@dataclasses.dataclass(frozen=True)
class PendingVerdicts:
    """Verdicts that are being computed, in parts.

    Parts may finish in any order; `result` waits for all of them, and for those of other hosts.
    """

    parts: Sequence[Submitted]
    keys: Sequence[SampleKey]

    def result(self) -> list[Verdict | None]:
        """The verdict of each key, in order; None for a sample that is not verified.

        Every host must call it equally often.
        """
        known: dict[SampleKey, Verdict] = {}
        for host in together(lambda: [part.result() for part in self.parts]):
            for verdicts in host:
                known |= verdicts
        return [known.get(key) for key in self.keys]


class BackgroundVerifier:
    """Hands rollouts to a `Verifier` without waiting for it; a context manager.

    Args:
        verify: its worker processes do the work; the thread here only waits for them.
        reward_kinds: how each domain's answers are verified; "none": not at all.
    """

    def __init__(self, verify: Verifier, reward_kinds: Mapping[str, str]):
        self._verify, self._kinds = verify, reward_kinds
        self._threads = ThreadPoolExecutor(1)

    def submit(self, samples: Iterable[tuple[Rollout, str]], selected: set[SampleKey]) -> Submitted:
        """Starts verifying rollouts, given with their texts; those not selected are left out."""
        chosen = [
            (r, text)
            for r, text in samples
            if r.request.key in selected and self._kinds[r.request.prompt.source.domain] != NONE
        ]
        return self._threads.submit(self._run, chosen)

    def _run(self, samples: Sequence[tuple[Rollout, str]]) -> dict[SampleKey, Verdict]:
        items = []
        for rollout, text in samples:
            prompt = rollout.request.prompt.source
            items.append(item(self._kinds[prompt.domain], prompt, text))
        keys = [rollout.request.key for rollout, _ in samples]
        return dict(zip(keys, self._verify(items), strict=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
