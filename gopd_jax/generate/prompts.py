"""The prompts of `gopd_jax.generate`: JSON lines in, `PromptSamples` out.

Does not apply the chat template and does not look at lengths; `job.make_job` does both.
"""

from typing import Any

from etils import epath

from gopd_jax.data import rows
from gopd_jax.generate.job import PromptSamples
from gopd_jax.types import Prompt

NO_GROUND_TRUTH = {"ground_truth": "none"}  # rows of data sets must have one; it is not used here


def read_prompts(path: str, samples: int = 1) -> list[PromptSamples]:
    """Reads the prompts of a file of JSON lines.

    Args:
        path: the file; each line has "prompt" or "messages", and may have "prompt_id",
            "max_response_tokens", "tools" and "chat_template_kwargs". Empty lines are skipped.
        samples: number of samples of each prompt.

    Raises:
        ValueError: there is no such file, it holds no prompts, or a line is malformed or repeats a
            prompt id; names the file and the line.
    """
    if not epath.Path(path).is_file():
        raise ValueError(f"--prompt-file={path}: no such file, expected JSON lines of prompts")
    prompts: list[PromptSamples] = []
    first_line: dict[str, int] = {}  # by prompt id
    with epath.Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                prompts.append(_parse(line, f"line-{number}", samples))
            except ValueError as e:
                raise ValueError(f"{path}:{number}: {e}") from e
            name = prompts[-1].prompt.prompt_id
            if (first := first_line.setdefault(name, number)) != number:
                raise ValueError(
                    f"{path}:{number}: prompt_id {name!r} is already taken by line {first}"
                )
    if not prompts:
        raise ValueError(f"--prompt-file={path}: no rows, expected at least one prompt")
    return prompts


def _parse(line: bytes, default_id: str, samples: int) -> PromptSamples:
    raw: Any = rows.json_line(line)
    if not isinstance(raw, dict) or all(raw.get(key) is None for key in ("messages", "prompt")):
        found = list(raw) if isinstance(raw, dict) else repr(raw)
        raise ValueError(f'found {found}, expected an object with "messages" or "prompt"')
    row = rows.parse(raw | NO_GROUND_TRUTH, default_id)
    if "max_tokens" in raw:
        raise ValueError("max_tokens: unknown field, expected max_response_tokens")
    limit = raw.get("max_response_tokens")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"max_response_tokens={limit!r}: expected an integer >= 1")
    prompt = Prompt(
        row["prompt_id"],
        tuple(row["messages"]),
        domain="",
        ground_truth="",
        tools=row["tools"],
        template_kwargs=row["template_kwargs"],
    )
    return PromptSamples(prompt, samples, limit)
