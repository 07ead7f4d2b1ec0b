"""What must hold before a run starts; each failure is one clear error.

Stage one needs configurations, tokenizers and prompts (`check_writable`, `check_models`,
`check_prompts`). Stage two needs the weights as well (`check_weights`).
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import os
from pathlib import Path
import shutil
import uuid

from etils import epath
import jax
import numpy as np

from gopd_jax.data.templates import differences
from gopd_jax.data.tokenizer import ChatTokenizer, check_same_vocabulary
from gopd_jax.models.config import ModelConfig
from gopd_jax.rewards.kinds import KINDS
from gopd_jax.rewards.verifier import check_ground_truth
from gopd_jax.runtime.progress import say
from gopd_jax.runtime.run_folder import LOCK
from gopd_jax.types import EncodedPrompt

# ---- Stage one: before weights are read.


def check_writable(workdir: str) -> None:
    """Raises ValueError when a file cannot be written under `workdir`."""
    folder = epath.Path(workdir)
    probe = folder / f".writable-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except (OSError, ValueError) as e:  # ValueError: a NUL byte in the name
        raise ValueError(
            f"--workdir={workdir!r}: cannot write there, expected a folder to write to ({e})"
        ) from e


@contextlib.contextmanager
def undone_if_refused(workdir: str) -> Iterator[None]:
    """Removes what a start of a run has created under `workdir` if that start is refused.

    Those are data sets that were prepared there, the lock of a new folder, and folders that are
    empty without them. What was there before stays, and so does everything once there is a run.
    Object stores are left alone.
    """
    datasets, run = Path(workdir) / "datasets", Path(workdir) / "run.json"
    if "://" in workdir or jax.process_index() > 0:
        yield
        return
    had_run, before = os.path.lexists(run), _entries(datasets)
    own = datasets, Path(workdir) / "checkpoints", *datasets.parents
    folders = [p for p in own if not os.path.lexists(p)]
    try:
        yield
    except (ValueError, OSError):
        if had_run or not os.path.lexists(run):
            for name in _entries(datasets) - before:
                shutil.rmtree(datasets / name, ignore_errors=True)
            if datasets.parent in folders:
                with contextlib.suppress(OSError, ValueError):
                    (datasets.parent / LOCK).unlink()
            for folder in folders:
                with contextlib.suppress(OSError, ValueError):  # not empty, or never created
                    folder.rmdir()
        raise


def _entries(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError):
        return set()


def check_models(
    roles: Mapping[str, str],
    models: Mapping[str, ModelConfig],
    tokenizers: Mapping[str, ChatTokenizer],
    longest: int,
) -> None:
    """Checks that the models of a run fit together.

    Args:
        roles: path of the model in each role: "student", "teacher of NAME", "reference".
        models: architecture by path.
        tokenizers: by role.
        longest: most tokens of a prompt with its response.

    Raises:
        ValueError: vocabularies differ, a model has fewer embeddings than its tokenizer has ids, or
            fewer positions than `longest`.
    """
    check_same_vocabulary(tokenizers)
    for role, path in roles.items():
        model = models[path]
        tokenizers[role].check_fits(f"{role} {path!r}", model.vocab_size)
        if longest > model.max_positions:
            raise ValueError(
                f"{role} {path!r} has {model.max_positions} positions: expected at least "
                f"{longest}, the prompt limit + the response limit"
            )


def warn_of_templates(tokenizers: Mapping[str, ChatTokenizer]) -> None:
    """Warns about models that write or end chats otherwise than the student.

    Args:
        tokenizers: by role; the student's template and stop ids are used for all.
    """
    for role, tokenizer in tokenizers.items():
        if found := differences(tokenizers["student"], tokenizer):
            say(
                f"warning: {role} {tokenizer.path!r} was made for other chats: "
                f"{'; '.join(found)}. The student's are used"
            )


def check_prompts(domain: str, kind: str, prompts: Sequence[EncodedPrompt]) -> None:
    """Raises ValueError when the answers to some of the prompts cannot be verified.

    Up to 64 prompts are tried. All of them would take a minute (`python -m gopd_jax.data
    --verify`); the data builder has checked that each has a ground truth. Only the kinds of
    `rewards.kinds` say what a ground truth must be.
    """
    if kind not in KINDS:
        return
    for encoded in spread(prompts):
        prompt = encoded.source
        try:
            check_ground_truth(kind, prompt.ground_truth)
        except ValueError as e:
            raise ValueError(
                f"config.domains.{domain}: prompt {prompt.prompt_id!r} cannot be verified as "
                f"{kind!r}: {e}"
            ) from e


def spread(prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """Up to 64 prompts spread evenly over a data set."""
    return [prompts[int(i)] for i in np.unique(np.linspace(0, len(prompts) - 1, 64).astype(int))]


# ---- Stage two: with the weights.


def check_weights(
    roles: Mapping[str, str], fingerprints: Mapping[str, str], shown_more: set[str]
) -> None:
    """Warns about a teacher that has the student's own weights.

    Args:
        roles: path of the model in each role.
        fingerprints: sha256 of the weights, by path.
        shown_more: roles of teachers that read more than the student; for them it is intended.
    """
    student = fingerprints[roles["student"]]
    for role, path in roles.items():
        is_teacher = role.startswith("teacher") and role not in shown_more
        if is_teacher and fingerprints[path] == student:
            say(
                f"warning: the {role} has the student's own weights ({path}): every advantage will "
                "be about 0"
            )
