"""Benchmarks by name or by file -> problems that a verifier can judge.

In: the value of `--suite`. Out: `Benchmark`s, every row read and every ground truth checked. Does
not know models: nothing is tokenized here.
"""

from collections.abc import Sequence
import dataclasses
import difflib
import hashlib
import json

from etils import epath

from gopd_jax.data import rows
from gopd_jax.data.formats import guess_reward_kind
from gopd_jax.data.messages import add_to_last_user_message, with_suffix
from gopd_jax.data.sources import HUB, TINY, stem
from gopd_jax.data.sources import SUFFIXES as FILE_SUFFIXES
from gopd_jax.evaluate.catalog import KNOWN, OWN_SAMPLES, PAPER_SAMPLES, SUFFIXES, SUITES
from gopd_jax.rewards.own import is_own
from gopd_jax.rewards.verifier import check_ground_truth
from gopd_jax.types import Prompt


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Problems and how they are judged.

    source: the file, hub path or tiny:NAME/SPLIT that they were read from.
    reward: the kind of verification, or a reward function of the user.
    samples: k, the samples of each problem.
    prompts: with their suffix; the domain of each is the name of the benchmark.
    hashes: by prompt id, a hash of the problem without its suffix. Two evaluations can be compared
        if they agree.
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
    r"""Reads the benchmarks of a comma-separated list of suites, names and files.

    Args:
        suite: the list.
        data: folder with the files of benchmarks that are known by name.
        reward: "math", "code" or "auto", which apply to files that are not known by name; or a
            reward function of the user, which applies to all.
        samples: replaces the benchmark's own number of samples.
        suffix: replaces the benchmark's own suffix, which is left out where the prompt already asks
            for \boxed.

    Raises:
        ValueError: something is unknown, missing, malformed or there twice; names it with the
            choices, the path, or the file and line.
    """
    benchmarks: list[Benchmark] = []
    owners: dict[str, str] = {}  # source, by prompt id
    for name, source in _sources(suite, data).items():
        benchmark = _read(name, source, reward, samples, suffix)
        for prompt in benchmark.prompts:
            other = owners.setdefault(prompt.prompt_id, source)
            if other != source:
                raise ValueError(
                    f"prompt_id {prompt.prompt_id!r} is in {other} and again in {source}: expected "
                    "files of different names, or rows with ids of their own"
                )
        benchmarks.append(benchmark)
    return benchmarks


def fingerprint(benchmarks: Sequence[Benchmark]) -> str:
    """sha256 hex of names, kinds of verification, problems and ground truths, in order."""
    content = json.dumps([[b.name, b.reward, b.hashes] for b in benchmarks])
    return hashlib.sha256(content.encode()).hexdigest()


def _sources(suite: str, data: str) -> dict[str, str]:
    """The source of each benchmark, by name."""
    words = [word.strip() for word in suite.split(",")]
    found: dict[str, str] = {}
    for item in [name for word in words for name in SUITES.get(word, (word,))]:
        name, source = _source(item, suite, data)
        if found.setdefault(name, source) != source:
            raise ValueError(
                f"--suite={suite}: {found[name]} and {source} are both {name!r}: expected each "
                "name once"
            )
    return found


def _source(item: str, suite: str, data: str) -> tuple[str, str]:
    """Name and source of one benchmark, given by name or by file."""
    if item.startswith(TINY):
        return item, item
    if item in KNOWN:
        return item, _find_file(item, data)
    if item.endswith(FILE_SUFFIXES) or "/" in item:
        if not item.startswith(HUB) and not epath.Path(item).is_file():
            raise ValueError(f"--suite={suite}: no such file: {item}, expected problems")
        file = epath.Path(item).name.removesuffix(".gz")
        known = (name for name, k in KNOWN.items() if file in k.files)
        return next(known, stem(item)), item
    nearest = difflib.get_close_matches(item, [*SUITES, *KNOWN], n=1, cutoff=0.0)[0]
    raise ValueError(
        f"--suite={suite}: no benchmark {item!r}; nearest: {nearest!r}; expected some of "
        f"{', '.join((*SUITES, *KNOWN))}, a file or {HUB}OWNER/NAME/PATH"
    )


def _find_file(name: str, data: str) -> str:
    """The file in the folder `data` of a benchmark that is known by name."""
    files = KNOWN[name].files
    if not data:
        raise ValueError(
            f"{name}: expected --benchmark-dir=FOLDER, the folder that holds {files[0]}"
        )
    paths = [epath.Path(data) / (file + end) for file in files for end in ("", ".gz")]
    for path in paths:
        if path.is_file():
            return str(path)
    tried = ", ".join(path.name for path in paths)
    raise ValueError(
        f"{name}: no such file: {paths[0]}; looked for {tried} in --benchmark-dir={data}"
    )


def _read(
    name: str, source: str, reward: str, samples: int | None, suffix: str | None
) -> Benchmark:
    known = KNOWN.get(name)
    kind = known.reward if known and not is_own(reward) else reward
    read = list(rows.read(source, prompt_alone=is_own(kind)))
    if kind == "auto":
        kind = guess_reward_kind(read[0]["ground_truth"])
    own_suffix = known.suffix if known else SUFFIXES.get(kind, "")
    prompts: list[Prompt] = []
    hashes: dict[str, str] = {}
    for row in read:
        prompt_id, messages, truth = row["prompt_id"], row["messages"], row["ground_truth"]
        try:
            if not is_own(kind):
                check_ground_truth(kind, truth)
        except ValueError as error:
            raise ValueError(f"{source}: prompt {prompt_id!r}: {error}") from error
        content = json.dumps([prompt_id, messages, truth, *_more(row)])
        hashes[prompt_id] = hashlib.sha256(content.encode()).hexdigest()[:16]
        if suffix is None:
            chat = with_suffix(messages, own_suffix)
        else:
            chat = add_to_last_user_message(messages, suffix)
        # Only a reward function of the user reads more than the ground truth.
        extra = row["extra"] if is_own(kind) else {}
        more = {"tools": row["tools"], "template_kwargs": row["template_kwargs"]}
        prompts.append(Prompt(prompt_id, tuple(chat), name, truth, extra, **more))
    k = samples or (known.samples if known else PAPER_SAMPLES.get(kind, OWN_SAMPLES))
    return Benchmark(name, source, kind, k, tuple(prompts), hashes)


def _more(row: rows.Row) -> list[object]:
    """What the chat template reads besides messages; nothing for most rows."""
    more = [row["tools"], row["template_kwargs"]]
    return more if any(more) else []
