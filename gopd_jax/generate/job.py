"""What the commands that sample from a model folder share: options, the checked job, the file that a second start goes on with.

In: parsed options and prompts. Out: finished samples, as a file of JSON lines. The commands, `generate` and `evaluate`, decide
which prompts there are, what a line holds and what is said about all of them.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import time
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jinja2 import TemplateError
import numpy as np

from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.kernels.decode_attention import KERNELS
from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.models.decoder import abstract_params, logical_axes
from gopd_jax.models.huggingface import load_params, weights_fingerprint
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.engine import CACHES, WEIGHTS, RolloutEngine
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.runtime.mesh import make_mesh, rows_multiple, shardings
from gopd_jax.runtime.processes import agree
from gopd_jax.runtime.progress import Bar, say
from gopd_jax.runtime.provenance import about
from gopd_jax.types import EncodedPrompt, Prompt, Request, Rollout

SLOTS = 64  # default
COUNTS = ("samples", "max_tokens", "max_prompt_tokens", "slots", "tensor", "verifiers")
NUMBERS = (
    *((name, 1, 2**31 - 1) for name in COUNTS),
    ("seed", 0, 2**32 - 1),
)  # with the least and the most they may be


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A prompt, how many samples of it, and its own response limit (None: that of the command)."""

    prompt: Prompt
    samples: int
    max_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that was found right, before any weights are read.

    load: reads the parameters. requests: samples of one prompt in a row. skipped: reason by prompt id. settings: every option
    with the value in effect, and fingerprints of weights and prompts.
    """

    engine: RolloutEngine
    tokenizer: ChatTokenizer
    rule: SamplingRule
    requests: Sequence[Request]
    skipped: dict[str, str]
    settings: dict[str, Any]
    load: Callable[[], Any]


def check_numbers(args: argparse.Namespace) -> SamplingRule:
    """The sampling rule of the options; ValueError for a number that is none of those allowed."""
    for name, least, most in NUMBERS:
        value = getattr(args, name, None)
        if value is not None and not least <= value <= most:
            raise ValueError(
                f"--{name.replace('_', '-')}={value}: wanted an integer in [{least}, {most}]"
            )
    return SamplingRule(args.temperature, args.top_k, args.top_p)


def make_job(
    args: argparse.Namespace, wanted: Sequence[Wanted], source: str, default_max_tokens: int
) -> Job:
    """Finds everything that can be wrong with a command, and says which prompts are skipped.

    Args:
        args: what `add_sampling_options` and `add_work_options` parse, "model" and "max_tokens".
        source: the option that the prompts come from, for errors. default_max_tokens: without --max-tokens.

    Raises:
        ValueError: names the value and what was wanted.
    """
    rule = check_numbers(args)
    model = load_config(args.model)
    tokenizer = ChatTokenizer.load(args.model, args.enable_thinking, args.stop_ids)
    if len(tokenizer.tokenizer) > model.vocab_size:
        raise ValueError(
            f"--model={args.model} has {model.vocab_size} embeddings, its tokenizer {len(tokenizer.tokenizer)} ids: "
            "wanted at least as many embeddings as ids"
        )
    encoded = [EncodedPrompt(w.prompt, _encode(tokenizer, w.prompt)) for w in wanted]
    max_prompt_tokens, max_tokens = _limits(
        args, model, max(len(e.tokens) for e in encoded), default_max_tokens
    )
    skipped, requests = {}, []
    for w, e in zip(wanted, encoded, strict=True):
        limit = w.max_tokens or max_tokens
        if reason := _too_long(len(e.tokens), limit, max_prompt_tokens, max_tokens):
            skipped[w.prompt.prompt_id] = reason
            say(f"skipped: prompt {w.prompt.prompt_id!r} {reason}")
        else:
            requests.extend(Request(e, i, limit) for i in range(w.samples))
    if not requests:
        raise ValueError(f"{source}: none of {len(encoded)} prompts is within the limits")

    mesh = make_mesh(tensor=args.tensor)
    shards = rows_multiple(mesh)
    most = max(w.samples for w in wanted)
    slots = args.slots or -(-max(most, min(SLOTS, len(requests))) // shards) * shards
    if most > slots:
        raise ValueError(f"--samples={most}: wanted at most --slots={slots}")
    dtype = _dtype(args.dtype)
    places = shardings(mesh, abstract_params(model), logical_axes(model))
    engine = RolloutEngine(
        model,
        mesh,
        tokenizer.stop_ids,
        slots=slots,
        max_prompt_tokens=max_prompt_tokens,
        max_response_tokens=max_tokens,
        dtype=dtype,
        options=EngineOptions(args.kernel, args.kv_cache, args.weights),
        say=say,
    )
    settings = {name: value for name, value in vars(args).items() if name != "out"} | {
        "max_tokens": max_tokens,
        "max_prompt_tokens": max_prompt_tokens,
        "slots": slots,
        "stop_ids": list(tokenizer.stop_ids),
        "dtype": np.dtype(dtype).name,
        "model_fingerprint": weights_fingerprint(args.model),
        "prompts_fingerprint": _fingerprint(wanted, encoded),
    }
    return Job(
        engine,
        tokenizer,
        rule,
        requests,
        skipped,
        settings,
        lambda: load_params(args.model, model, dtype, places),
    )


def _encode(tokenizer: ChatTokenizer, prompt: Prompt) -> np.ndarray:
    try:
        return tokenizer.encode_prompt(prompt.messages)
    except TemplateError as e:
        raise ValueError(
            f"prompt {prompt.prompt_id!r}: the chat template of {tokenizer.path!r} refuses it ({e})"
        ) from e


def _limits(
    args: argparse.Namespace, model: ModelConfig, longest: int, default_max_tokens: int
) -> tuple[int, int]:
    """Prompt and response limit in effect: together at most the positions that the model takes."""
    positions = model.max_positions
    max_tokens = args.max_tokens or min(default_max_tokens, positions // 2)
    if max_tokens >= positions:
        raise ValueError(
            f"--max-tokens={max_tokens}: wanted less than the {positions} positions of {args.model}"
        )
    max_prompt_tokens = args.max_prompt_tokens or min(longest, positions - max_tokens)
    if max_prompt_tokens + max_tokens > positions:
        raise ValueError(
            f"--max-prompt-tokens={max_prompt_tokens} and --max-tokens={max_tokens}: wanted at most {positions} together, "
            f"the positions of {args.model}"
        )
    return max_prompt_tokens, max_tokens


def _too_long(length: int, limit: int, max_prompt_tokens: int, max_tokens: int) -> str:
    """Why a prompt cannot be drawn, or ""."""
    if length > max_prompt_tokens:
        return f"has {length} tokens: wanted at most {max_prompt_tokens} (--max-prompt-tokens, or what --max-tokens leaves)"
    if limit > max_tokens:
        return f"asks for max_tokens={limit}: wanted at most --max-tokens={max_tokens}"
    return ""


def _dtype(name: str) -> Any:
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name).type


def _fingerprint(wanted: Sequence[Wanted], encoded: Sequence[EncodedPrompt]) -> str:
    """sha256 hex of the prompts' ids, tokens and own limits, in order."""
    content = [
        [e.source.prompt_id, e.tokens.tolist(), w.max_tokens]
        for w, e in zip(wanted, encoded, strict=True)
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Output:
    """The file of samples and the summary beside it; only the first host reads and writes them.

    Making it reads the whole lines of an interrupted command of the same settings; `missing` are the requests not among them,
    and `complete` says that nothing is left to do.

    Args:
        free: settings that may change when a command is resumed.
        seen: called with each record, those that are there already and those that are written.

    Raises:
        ValueError: the file is that of another command, or of none; names the field, or the line.
    """

    def __init__(
        self,
        path: Path,
        summary: Path,
        job: Job,
        free: Sequence[str],
        seen: Callable[[dict[str, Any]], None] = lambda r: None,
    ):
        self.path, self._summary, self._job, self._free, self._seen = path, summary, job, free, seen
        self.on = jax.process_index() == 0
        self._starts: list[dict[str, Any]] = []
        self._file, complete, missing = None, False, {name_of(r) for r in job.requests}
        if self.on and path.exists():
            complete, self._starts = self._check_summary()
            self._take_lines_from(missing)
        agreed = agree(np.array([name_of(r) in missing for r in job.requests]))
        self.missing = [r for r, m in zip(job.requests, agreed, strict=True) if m]
        self.complete = complete and not self.missing

    def open(self, summary: dict[str, Any]) -> None:
        """Begins another start: from here on samples are written."""
        if self.on:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._starts.append(about())
            self.summarise(summary)
            self._file = self.path.open("a")

    def _check_summary(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether the old command was completed, and its starts."""
        try:
            old = json.loads(self._summary.read_text())
            complete, starts, settings = old["complete"], old["starts"], old["settings"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ValueError(
                f"--out={self.path} exists, and its settings cannot be read from {self._summary} ({e!r}): wanted another --out"
            ) from e
        new = {name: value for name, value in self._job.settings.items() if name not in self._free}
        differing = [
            f"{name} is {new[name]!r}, was {settings.get(name)!r}"
            for name in new
            if new[name] != settings.get(name)
        ]
        if differing:
            raise ValueError(
                f"--out={self.path} holds other samples: {'; '.join(differing)}: wanted the same, or another --out"
            )
        return complete, starts

    def _take_lines_from(self, missing: set[tuple[str, int]]) -> None:
        """Removes the samples that are there from `missing`, and from the file a line that a kill has left without its end."""
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    os.truncate(self.path, end)
                    return
                try:
                    record = json.loads(line)
                    missing.remove((record["prompt_id"], record["sample_id"]))
                    self._seen(record)
                except (ValueError, KeyError, TypeError) as e:
                    raise ValueError(
                        f"{self.path}:{number}: wanted a sample of this command, each once ({e!r})"
                    ) from e
                end += len(line)

    def write(self, record: dict[str, Any]) -> None:
        if self.on:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            self._seen(record)

    def summarise(self, content: dict[str, Any]) -> None:
        """Replaces the summary by `content`, with the settings and the starts; `content["complete"]`: nothing is left to do."""
        if self.on:
            temporary = self._summary.with_suffix(".tmp")
            whole = content | {"settings": self._job.settings, "starts": self._starts}
            temporary.write_text(json.dumps(whole, indent=2) + "\n")
            temporary.replace(self._summary)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def name_of(request: Request) -> tuple[str, int]:
    return request.key


def draw(
    job: Job, missing: Sequence[Request], title: str, take: Callable[[Rollout], None]
) -> dict[str, Any]:
    """Loads the model and hands the missing samples to `take` as they finish; what was drawn and how fast."""
    engine, total = job.engine, len(job.requests)
    weights = jax.block_until_ready(engine.lay_out(job.load()))
    start, seconds = time.perf_counter(), 0.0
    with Bar(title, total, "samples", total - len(missing)) as bar:
        for rollout in engine(weights, missing, jax.random.key(job.settings["seed"]), job.rule):
            take(rollout)
            seconds = time.perf_counter() - start
            bar.advance(1, f"{engine.stats.tokens / seconds:.0f} tokens/s")
    return {
        "samples": engine.stats.samples,
        "tokens": engine.stats.tokens,
        "prompt_tokens": engine.stats.prompt_tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(engine.stats.tokens / seconds, 1),
        "slot_utilisation": round(engine.stats.utilisation, 4),
        "programs_compiled": len(engine.programs),
        "compile_seconds": round(sum(p.compile_seconds for p in engine.programs), 3),
    }


def speed_of(drawn: dict[str, Any]) -> str:
    """What `draw` returned, for a person; {} where it was not called."""
    if not drawn:
        return "complete already, nothing was drawn"
    return f"{drawn['tokens_per_second']} tokens/s, compilation included"


class Parser(argparse.ArgumentParser):
    """An argument parser whose help keeps its line breaks, and whose errors are one line, without the usage."""

    def __init__(self, **kwargs: Any):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def add_sampling_options(parser: Parser) -> None:
    add = parser.add_argument_group("sampling").add_argument
    add(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="0 is greedy (default: %(default)s)",
    )
    add(
        "--top-k",
        type=int,
        default=0,
        metavar="K",
        help="only the K most likely tokens (default: 0, all)",
    )
    add(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="only the most likely tokens that reach P (default: 1, all)",
    )
    add(
        "--stop-ids",
        type=int,
        nargs="+",
        default=[],
        metavar="ID",
        help="ids that end a response, beside the model's own",
    )
    add(
        "--enable-thinking",
        action="store_true",
        help="switch of Qwen3's chat template; other templates ignore it",
    )


def add_work_options(parser: Parser) -> Callable[..., Any]:
    """Returns what adds further options to the group."""
    add = parser.add_argument_group("how the work is done").add_argument
    add(
        "--slots",
        type=int,
        metavar="N",
        help=f"sequences decoded at once (default: {SLOTS}, less for less work)",
    )
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="auto: bfloat16, on CPU float32",
    )
    add(
        "--kernel",
        choices=["auto", *KERNELS],
        default="auto",
        help="decode attention (default: %(default)s)",
    )
    add(
        "--kv-cache",
        choices=CACHES,
        default="compute",
        help="in the compute dtype or int8 (default: %(default)s)",
    )
    add(
        "--weights",
        choices=WEIGHTS,
        default="compute",
        help="in the compute dtype or int8 (default: %(default)s)",
    )
    add(
        "--tensor",
        type=int,
        default=1,
        metavar="N",
        help="devices that share each layer; slots are spread over the rest",
    )
    return add


def run(command: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Exit status of a command: 0 done, 2 wrong command, prompts or model, 130 stopped by Ctrl-C."""
    try:
        command(args)
    except (ValueError, OSError) as e:
        say(f"error: {e}")
        return 2
    except KeyboardInterrupt:
        say("stopped by Ctrl-C; the same command goes on from there")
        return 130
    return 0
