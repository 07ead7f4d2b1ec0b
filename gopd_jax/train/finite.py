"""Numbers that are not finite: found after each update, before anything is saved.

In: the record of a step. Out: nothing, or the first `Fault`. The train step has then left the state
as it was. Also a check of the state itself, before it is saved and after it is restored.
"""

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.runtime.errors import NonFiniteError
from gopd_jax.runtime.processes import fetch
from gopd_jax.train.step_log import StepRecord
from gopd_jax.types import SampleKey, TrainState, Tree


@dataclasses.dataclass(frozen=True)
class Fault:
    """Where a step met the first number that is not finite.

    what: the kind of number, such as "teacher log-probs".
    update: index of the update within the step.
    where: the micro-batch and its domain, in words.
    keys: the samples in the micro-batch; for gradients, all samples of the update.
    """

    what: str
    update: int
    where: str
    keys: tuple[SampleKey, ...]

    def describe(self, step: int, path: str) -> str:
        """One sentence for the person at the terminal; `path` holds the rollouts."""
        named = ", ".join(repr(key.prompt_id) for key in self.keys[:3])
        more = f" and {len(self.keys) - 3} more" if len(self.keys) > 3 else ""
        return (
            f"step {step}, update {self.update + 1}{self.where}: the {self.what} are not finite, "
            f"prompts {named}{more}. Nothing was learned from this step or saved; its rollouts are "
            f"in {path}"
        )


def first_fault(record: StepRecord, domains: Sequence[str]) -> Fault | None:
    """The first number of a step that is not finite, or None; waits for the updates."""
    for index, update in enumerate(record.updates):
        packed = update.packed
        finite, grad_norm = jax.device_get((update.metrics.finite, update.metrics.grad_norm))
        for what in finite[0]:
            for bucket, of_batch in enumerate(finite):
                if not of_batch[what].all():
                    micro = int(np.argmin(of_batch[what]))
                    domain = domains[int(packed.domains[bucket][micro])]
                    keys = [
                        k
                        for k, w in packed.slices.items()
                        if (w.bucket, w.micro) == (bucket, micro)
                    ]
                    where = f", micro-batch {micro} of domain {domain!r}"
                    return Fault(what, index, where, tuple(sorted(keys)))
        if not np.isfinite(grad_norm):
            return Fault("gradients", index, "", tuple(sorted(packed.slices)))
    return None


def check_saved(state: TrainState, step: int) -> TrainState:
    """Returns a restored state; raises ValueError if it holds a number that is not finite."""
    if names := not_finite(state):
        raise ValueError(
            f"the checkpoint of step {step} is not finite in {names[0]} ({len(names)} of "
            f"{len(jax.tree.leaves(state))} arrays): expected numbers; rename its folder to resume "
            "from the one before it, or use another --workdir"
        )
    return state


def check_to_save(state: TrainState, step: int) -> TrainState:
    """Returns a state; raises NonFiniteError if it must not be saved."""
    if names := not_finite(state):
        raise NonFiniteError(
            f"step {step}: the update made {names[0]} not finite ({len(names)} of "
            f"{len(jax.tree.leaves(state))} arrays). It is not saved; the same command resumes "
            "from the checkpoint before it"
        )
    return state


def not_finite(tree: Tree) -> list[str]:
    """The names of the arrays that hold NaN or infinity."""
    by_path, _ = jax.tree_util.tree_flatten_with_path(_all_finite(tree))
    names = [(jax.tree_util.keystr(p, simple=True, separator="/"), x) for p, x in by_path]
    return [name for name, finite in names if not fetch(finite)]


@jax.jit
def _all_finite(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)
