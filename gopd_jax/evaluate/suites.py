"""Benchmarks by name or by file -> problems that a verifier can judge.

In: what `--suite` says. Out: `Benchmark`s, every row read and every ground truth checked. Knows nothing of models.
"""

from collections.abc import Sequence
import dataclasses
import difflib
import hashlib
import json

from etils import epath

from gopd_jax.data import rows
from gopd_jax.data.sources import HUB
from gopd_jax.data.tokenizer import add_to_last_user_message
from gopd_jax.rewards.verifier import check_ground_truth
from gopd_jax.types import Prompt

MATH_SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
PAPER_SAMPLES = {"math": 32, "code": 4}  # arXiv 2602.12125, section 4.1: avg@32 and avg@4
SUFFIXES = {"math": MATH_SUFFIX, "code": ""}


@dataclasses.dataclass(frozen=True)
class Known:
    """A benchmark that is known by name: the file names it goes by (each also with .gz), how it is verified, k, the suffix."""

    files: tuple[str, ...]
    reward: str
    samples: int
    suffix: str


def _math(*files: str) -> Known:
    return Known(files, "math", PAPER_SAMPLES["math"], MATH_SUFFIX)


def _code(*files: str) -> Known:
    return Known(files, "code", PAPER_SAMPLES["code"], "")


KNOWN = {
    "aime24": _math("aime24.jsonl"),
    "aime25": _math("aime25.jsonl"),
    "hmmt25_feb": _math("hmmt25_feb.jsonl"),
    "hmmt25_nov": _math("hmmt25_nov.jsonl"),
    "amc": _math("amc.jsonl"),
    "math500": _math("math500.jsonl"),
    "gsm8k_test": _math("gsm8k_test.jsonl"),
    "humaneval_plus": _code("HumanEvalPlus.jsonl", "humaneval_plus.jsonl"),
    "mbpp_plus": _code("MbppPlus.jsonl", "mbpp_plus.jsonl"),
    "livecodebench_v6": _code("livecodebench_v6.jsonl", "livecodebench.jsonl"),
    "humaneval": _code("HumanEval.jsonl", "humaneval.jsonl"),
    "mbpp": _code("mbpp.jsonl"),
    "tiny:math/test": Known((), "math", 4, ""),  # the embedded models were taught no suffix
    "tiny:code/test": Known((), "code", 4, ""),
}
SUITES = {
    "math": ("aime24", "aime25", "hmmt25_feb", "hmmt25_nov"),
    "code": ("humaneval_plus", "mbpp_plus", "livecodebench_v6"),
}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Problems and how they are judged. `prompts`: suffix included; `domain` is the name of the benchmark.

    hashes: by prompt id, of the problem without its suffix: what two models must share to be compared.
    """

    name: str
    source: str
    reward: str
    samples: int
    prompts: tuple[Prompt, ...]
    hashes: dict[str, str]


def load(
    suite: str,
    data: str,
    *,
    reward: str = "auto",
    samples: int | None = None,
    suffix: str | None = None,
) -> list[Benchmark]:
    """The benchmarks of a comma-separated list of suites, names and files.

    Args:
      data: folder of the files of known names. reward: "math", "code" or "auto", for files of no known name.
      samples, suffix: in the place of the benchmark's own. Its own suffix is left out where the prompt asks for \\boxed.

    Raises:
      ValueError: names what is unknown, missing, malformed or taken twice, with the choices, the path, or file and line.
    """
    benchmarks, owners = [], {}
    for name, source in _sources(suite, data):
        benchmark = _read(name, source, reward, samples, suffix)
        for prompt in benchmark.prompts:
            other = owners.setdefault(prompt.prompt_id, source)
            if other != source:
                raise ValueError(
                    f"prompt_id {prompt.prompt_id!r} is in {other} and again in {source}: wanted files of different names, or "
                    "rows with ids of their own"
                )
        benchmarks.append(benchmark)
    return benchmarks


def fingerprint(benchmarks: Sequence[Benchmark]) -> str:
    """sha256 hex of names, kinds of reward, problems and ground truths, in order."""
    return hashlib.sha256(
        json.dumps([[b.name, b.reward, b.hashes] for b in benchmarks]).encode()
    ).hexdigest()


def _sources(suite: str, data: str) -> list[tuple[str, str]]:
    """Name and source of each benchmark, each once."""
    found: dict[str, str] = {}
    for item in [
        part for word in suite.split(",") for part in SUITES.get(word.strip(), (word.strip(),))
    ]:
        if item.startswith("tiny:"):
            name, source = item, item
        elif item in KNOWN:
            name, source = item, _look_up(item, data)
        elif item.endswith(rows.SUFFIXES) or "/" in item:
            if not item.startswith(HUB) and not epath.Path(item).is_file():
                raise ValueError(f"--suite={suite}: no such file: {item}")
            file = epath.Path(item).name
            name = next(
                (n for n, k in KNOWN.items() if file.removesuffix(".gz") in k.files),
                rows.stem(item),
            )
            source = item
        else:
            choices = [*SUITES, *KNOWN]
            nearest = difflib.get_close_matches(item, choices, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"--suite={suite}: no benchmark {item!r}; nearest: {nearest!r}; wanted a suite ({', '.join(SUITES)}), a name "
                f"({', '.join(KNOWN)}), a file ({', '.join(rows.SUFFIXES)}) or {HUB}OWNER/NAME/PATH; several with commas"
            )
        if found.setdefault(name, source) != source:
            raise ValueError(
                f"--suite={suite}: {found[name]} and {source} are both {name!r}: wanted each name once"
            )
    return list(found.items())


def _look_up(name: str, data: str) -> str:
    if not data:
        raise ValueError(
            f"{name}: wanted --data=FOLDER, the folder that holds {KNOWN[name].files[0]}"
        )
    paths = [epath.Path(data) / (file + end) for file in KNOWN[name].files for end in ("", ".gz")]
    for path in paths:
        if path.is_file():
            return str(path)
    raise ValueError(
        f"{name}: no such file: {paths[0]}; looked for {', '.join(p.name for p in paths)} in --data={data}"
    )


def _read(
    name: str, source: str, reward: str, samples: int | None, suffix: str | None
) -> Benchmark:
    read = list(rows.read(source))
    known = KNOWN.get(name)
    kind = known.reward if known else _kind(read[0]["ground_truth"]) if reward == "auto" else reward
    prompts, hashes = [], {}
    for row in read:
        try:
            check_ground_truth(kind, row["ground_truth"])
        except ValueError as error:
            raise ValueError(f"{source}: prompt {row['prompt_id']!r}: {error}") from error
        messages = row["messages"]
        own = suffix
        if own is None:
            asks = kind == "math" and any(r"\boxed" in m["content"] for m in messages)
            own = "" if asks else known.suffix if known else SUFFIXES[kind]
        content = json.dumps([row["prompt_id"], messages, row["ground_truth"]])
        hashes[row["prompt_id"]] = hashlib.sha256(content.encode()).hexdigest()[:16]
        chat = tuple(add_to_last_user_message(messages, own))
        prompts.append(Prompt(row["prompt_id"], chat, name, row["ground_truth"]))
    k = samples or (known.samples if known else PAPER_SAMPLES[kind])
    return Benchmark(name, source, kind, k, tuple(prompts), hashes)


def _kind(ground_truth: str) -> str:
    try:
        check_ground_truth("code", ground_truth)
    except ValueError:
        return "math"
    return "code"
