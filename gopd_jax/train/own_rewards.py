"""The reward functions of the user: found, and called once, before any work.

In: the config and a verifier, in whose workers the functions run. Out: what they are fingerprinted
by, or one sentence on what is wrong.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib

from gopd_jax.config import Config
from gopd_jax.data.verifying import try_reward
from gopd_jax.rewards.own import RewardError, is_own
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.types import EncodedPrompt


def sources(config: Config, verify: Verifier) -> dict[str, str]:
    """sha256 hex of the module of each domain's own reward function; other domains are left out.

    Raises:
        RewardError: a module cannot be imported, or has no such function.
    """
    found: dict[str, str] = {}
    for name, reward in _own(config).items():
        with _naming(name):
            found[name] = verify.source(reward)
    return found


def try_once(
    config: Config, train: Mapping[str, Sequence[EncodedPrompt]], verify: Verifier
) -> None:
    """Calls each own reward function with the first row of its domain and an empty answer.

    Raises:
        RewardError: the function fails, or takes more time or memory than an answer may.
    """
    for name, reward in _own(config).items():
        with _naming(name):
            try_reward(reward, train[name][0].source, verify)


def _own(config: Config) -> dict[str, str]:
    return {name: d.reward for name, d in config.domains.items() if is_own(d.reward)}


@contextlib.contextmanager
def _naming(domain: str) -> Iterator[None]:
    try:
        yield
    except RewardError as error:
        raise RewardError(f"config.domains.{domain}: {error}") from error
