"""Command: samples and log-probs from a Hugging Face model, drawn by the rollout engine; no training.

python -m gopd_jax.generate --model=Qwen/Qwen3-4B --prompts=prompts.jsonl --samples=4 --out=samples.jsonl
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import sys
import time
from typing import Any, NoReturn

from etils import epath
import jax
import jax.numpy as jnp
from jinja2 import TemplateError
import numpy as np

from gopd_jax.data import ChatTokenizer, rows
from gopd_jax.models import ModelConfig, abstract_params, load_config, load_params, logical_axes, weights_fingerprint
from gopd_jax.rollout import EngineOptions, RolloutEngine, SamplingRule
from gopd_jax.rollout.engine import CACHES, WEIGHTS
from gopd_jax.rollout.kernels import KERNELS
from gopd_jax.runtime.mesh import make_mesh, rows_multiple, shardings
from gopd_jax.runtime.processes import agree, start_processes
from gopd_jax.runtime.progress import Bar, say
from gopd_jax.runtime.provenance import about
from gopd_jax.types import EncodedPrompt, Prompt, Request, Rollout

MAX_TOKENS, SLOTS = 1024, 64  # defaults
FREE = ("model", "prompts", "slots", "tensor")  # may change when a command is resumed; the paths have fingerprints beside them
COUNTS = ("samples", "max_tokens", "max_prompt_tokens", "slots", "tensor")
NUMBERS = (*((name, 1, 2**31 - 1) for name in COUNTS), ("seed", 0, 2**32 - 1))  # with the least and the most they may be
UNVERIFIED = {"ground_truth": "none"}  # the reader of data sets wants one

DESCRIPTION = """\
Draw samples from a Hugging Face model, with the log-prob of every token.

example:
  cat > prompts.jsonl <<END
  {"prompt": "What is 17 * 23?"}
  {"prompt_id": "haiku", "messages": [{"role": "user", "content": "A haiku on rain."}], "max_tokens": 64}
  END
  python -m gopd_jax.generate --model=Qwen/Qwen3-4B --prompts=prompts.jsonl --samples=4 --out=samples.jsonl
"""
EPILOG = """\
PROMPTS: JSON lines, each with "messages" (a chat: role and content) or "prompt" (the text of one user message). Optional:
"prompt_id" (unique; default line-N, N the line number) and "max_tokens" (the response limit of this prompt). The chat template
of the model is applied. A prompt over a limit is reported and skipped.

OUT: JSON lines, one for each sample as soon as it is finished, in any order: prompt_id, sample_id (0 to samples - 1), text
(without special tokens), tokens (ids, the stop token included), logprobs (one for each token, nats, of the distribution that it
was drawn from: after temperature, top-k and top-p), finish_reason ("stop" or "length"). Beside it, OUT with the suffix
.summary.json: settings, versions, counts, skipped prompts, speed.

The same command again goes on where it was stopped: what is in OUT stays. A sample depends on the seed, its prompt, prompt_id
and sample_id alone, so that it is the same one whether or not the command was interrupted.

Exit status: 0 done, 2 wrong command, prompts or model, 130 stopped by Ctrl-C. JAX_PLATFORMS=cpu keeps it off an accelerator.
"""


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


def prepare(args: argparse.Namespace) -> Job:
    """Finds everything that can be wrong with a command, and says which prompts are skipped.

    Raises:
        ValueError: names the value and what was wanted.
    """
    for name, least, most in NUMBERS:
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"--{name.replace('_', '-')}={value}: wanted an integer in [{least}, {most}]")
    rule = SamplingRule(args.temperature, args.top_k, args.top_p)
    prompts = read_prompts(args.prompts)
    model = load_config(args.model)
    tokenizer = ChatTokenizer.load(args.model, args.enable_thinking, args.stop_ids)
    if len(tokenizer.tokenizer) > model.vocab_size:
        raise ValueError(
            f"--model={args.model} has {model.vocab_size} embeddings, its tokenizer {len(tokenizer.tokenizer)} ids: "
            "wanted at least as many embeddings as ids"
        )
    encoded = [EncodedPrompt(p, _encode(tokenizer, p)) for p in prompts]
    max_prompt_tokens, max_tokens = _limits(args, model, max(len(e.tokens) for e in encoded))
    skipped = {}
    for e in encoded:
        if reason := _too_long(e, max_prompt_tokens, max_tokens):
            skipped[e.prompt.prompt_id] = reason
            say(f"skipped: prompt {e.prompt.prompt_id!r} {reason}")
    kept = [e for e in encoded if e.prompt.prompt_id not in skipped]
    if not kept:
        raise ValueError(f"--prompts={args.prompts}: none of {len(encoded)} prompts is within the limits")
    requests = [Request(e, i, e.prompt.extra["max_tokens"] or max_tokens) for e in kept for i in range(args.samples)]

    mesh = make_mesh(tensor=args.tensor)
    shards = rows_multiple(mesh)
    slots = args.slots or -(-max(args.samples, min(SLOTS, len(requests))) // shards) * shards
    if args.samples > slots:
        raise ValueError(f"--samples={args.samples}: wanted at most --slots={slots}")
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
        "prompts_fingerprint": _fingerprint(encoded),
    }
    return Job(engine, tokenizer, rule, requests, skipped, settings, lambda: load_params(args.model, model, dtype, places))


def read_prompts(path: str) -> list[Prompt]:
    """The prompts of a file of JSON lines; "max_tokens" of a row is in `extra`.

    Raises:
        ValueError: no such file, no prompts, or a row that is malformed or has a taken prompt id; names file and line.
    """
    if not epath.Path(path).is_file():
        raise ValueError(f"--prompts={path}: no such file")
    prompts, taken = [], {}
    with epath.Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                prompts.append(_parse(line, f"line-{number}"))
            except ValueError as e:
                raise ValueError(f"{path}:{number}: {e}") from e
            name = prompts[-1].prompt_id
            if taken.setdefault(name, number) != number:
                raise ValueError(f"{path}:{number}: prompt_id {name!r} is already taken by line {taken[name]}")
    if not prompts:
        raise ValueError(f"--prompts={path}: no rows")
    return prompts


def _parse(line: bytes, default_id: str) -> Prompt:
    try:
        raw = json.loads(line.strip())
    except ValueError as e:
        raise ValueError(f"not valid JSON: {e}") from e
    if not isinstance(raw, dict) or all(raw.get(key) is None for key in ("messages", "prompt")):
        raise ValueError(f'wanted an object with "messages" or "prompt", found {list(raw) if isinstance(raw, dict) else raw!r}')
    row = rows.parse(raw | UNVERIFIED, default_id)
    limit = raw.get("max_tokens")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"max_tokens={limit!r}: wanted an integer >= 1")
    return Prompt(row["prompt_id"], tuple(row["messages"]), "", "", {"max_tokens": limit})


def _encode(tokenizer: ChatTokenizer, prompt: Prompt) -> np.ndarray:
    try:
        return tokenizer.encode_prompt(prompt.messages)
    except TemplateError as e:
        raise ValueError(f"prompt {prompt.prompt_id!r}: the chat template of {tokenizer.path!r} refuses it ({e})") from e


def _limits(args: argparse.Namespace, model: ModelConfig, longest: int) -> tuple[int, int]:
    """Prompt and response limit in effect: together at most the positions that the model takes."""
    positions = model.max_positions
    max_tokens = args.max_tokens or min(MAX_TOKENS, positions // 2)
    if max_tokens >= positions:
        raise ValueError(f"--max-tokens={max_tokens}: wanted less than the {positions} positions of {args.model}")
    max_prompt_tokens = args.max_prompt_tokens or min(longest, positions - max_tokens)
    if max_prompt_tokens + max_tokens > positions:
        raise ValueError(
            f"--max-prompt-tokens={max_prompt_tokens} and --max-tokens={max_tokens}: wanted at most {positions} together, "
            f"the positions of {args.model}"
        )
    return max_prompt_tokens, max_tokens


def _too_long(encoded: EncodedPrompt, max_prompt_tokens: int, max_tokens: int) -> str:
    """Why a prompt cannot be drawn, or ""."""
    length, limit = len(encoded.tokens), encoded.prompt.extra["max_tokens"] or max_tokens
    if length > max_prompt_tokens:
        return f"has {length} tokens: wanted at most {max_prompt_tokens} (--max-prompt-tokens, or what --max-tokens leaves)"
    if limit > max_tokens:
        return f"asks for max_tokens={limit}: wanted at most --max-tokens={max_tokens}"
    return ""


def _dtype(name: str) -> Any:
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name).type


def _fingerprint(prompts: Sequence[EncodedPrompt]) -> str:
    """sha256 hex of the prompts' ids, tokens and own limits, in order."""
    content = [[e.prompt.prompt_id, e.tokens.tolist(), e.prompt.extra["max_tokens"]] for e in prompts]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Output:
    """The file of samples and the summary beside it; only the first host reads and writes them.

    Opening it keeps the whole lines of an interrupted command of the same settings; `missing` are the requests not among them.

    Raises:
        ValueError: the file is that of another command, or of none; names the field, or the line.
    """

    def __init__(self, path: str, job: Job):
        self._path, self._summary = Path(path), Path(path).with_suffix(".summary.json")
        self._job, self._on = job, jax.process_index() == 0
        self._counts = {"samples": 0, "tokens": 0, "truncated": 0}
        self._starts: list[dict[str, Any]] = []
        self._file, complete, missing = None, False, {_name(r) for r in job.requests}
        if self._on and self._path.exists():
            complete, self._starts = self._check_summary()
            self._take_lines_from(missing)
        agreed = agree(np.array([_name(r) in missing for r in job.requests]))
        self.missing = [r for r, m in zip(job.requests, agreed, strict=True) if m]
        self.complete = complete and not self.missing
        if self._on and not self.complete:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._starts.append(about())
            self.summarise(complete=False)
            self._file = self._path.open("a")

    def _check_summary(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether the old command was completed, and its starts."""
        try:
            old = json.loads(self._summary.read_text())
            complete, starts, settings = old["complete"], old["starts"], old["settings"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ValueError(
                f"--out={self._path} exists, and its settings cannot be read from {self._summary} ({e!r}): wanted another --out"
            ) from e
        new = {name: value for name, value in self._job.settings.items() if name not in FREE}
        differing = [f"{name} is {new[name]!r}, was {settings.get(name)!r}" for name in new if new[name] != settings.get(name)]
        if differing:
            raise ValueError(
                f"--out={self._path} holds other samples: {'; '.join(differing)}: wanted the same, or another --out"
            )
        return complete, starts

    def _take_lines_from(self, missing: set[tuple[str, int]]) -> None:
        """Removes the samples that are there from `missing`, and from the file a line that a kill has left without its end."""
        end = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    os.truncate(self._path, end)
                    return
                try:
                    record = json.loads(line)
                    missing.remove((record["prompt_id"], record["sample_id"]))
                    self._count(record)
                except (ValueError, KeyError, TypeError) as e:
                    raise ValueError(f"{self._path}:{number}: wanted a sample of this command, each once ({e!r})") from e
                end += len(line)

    def _count(self, record: dict[str, Any]) -> None:
        self._counts["samples"] += 1
        self._counts["tokens"] += len(record["tokens"])
        self._counts["truncated"] += record["finish_reason"] == "length"

    def write(self, rollout: Rollout) -> None:
        if not self._on:
            return
        prompt_id, sample_id = _name(rollout.request)
        record = {
            "prompt_id": prompt_id,
            "sample_id": sample_id,
            "text": self._job.tokenizer.decode(rollout.tokens),
            "tokens": rollout.tokens.tolist(),
            "logprobs": [round(float(x), 6) for x in rollout.behaviour_logprobs],
            "finish_reason": rollout.finish_reason,
        }
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._count(record)

    def summarise(self, complete: bool, **drawn: Any) -> None:
        """Replaces the summary; `drawn` is what the last start did."""
        if not self._on:
            return
        prompts = len({r.prompt.prompt.prompt_id for r in self._job.requests})
        content = {"complete": complete, "prompts": prompts, **self._counts, "skipped": self._job.skipped}
        content |= {"drawn": drawn, "settings": self._job.settings, "starts": self._starts}
        temporary = self._summary.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(self._summary)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __str__(self) -> str:
        return f"{self._path}: {self._counts['samples']} samples, {self._counts['tokens']} tokens"


def _name(request: Request) -> tuple[str, int]:
    return request.prompt.prompt.prompt_id, request.sample_id


def draw(job: Job, output: Output) -> dict[str, Any]:
    """Loads the model and writes the missing samples as they finish; what was drawn and how fast."""
    engine, total = job.engine, len(job.requests)
    weights = jax.block_until_ready(engine.lay_out(job.load()))
    start, seconds = time.perf_counter(), 0.0
    with Bar("generate", total, "samples", total - len(output.missing)) as bar:
        for rollout in engine(weights, output.missing, jax.random.key(job.settings["seed"]), job.rule):
            output.write(rollout)
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


def generate(args: argparse.Namespace) -> None:
    """Runs a command from wherever its output stands."""
    job = prepare(args)
    output = Output(args.out, job)
    try:
        drawn = draw(job, output) if output.missing else {}
        if not output.complete:
            output.summarise(complete=True, **drawn)
        speed = (
            f"{drawn['tokens_per_second']} tokens/s, compilation included" if drawn else "complete already, nothing was drawn"
        )
        say(f"{output}; {speed}; {len(job.skipped)} prompts skipped")
    finally:
        output.close()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gopd_jax.generate",
        usage="%(prog)s --model=MODEL --prompts=FILE.jsonl --out=FILE.jsonl [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("what is drawn").add_argument
    add("--model", required=True, help="Hugging Face folder or hub id")
    add("--prompts", required=True, metavar="FILE", help="JSON lines of prompts, see below")
    add("--out", required=True, metavar="FILE", help="JSON lines of samples to write, or to go on with")
    add("--samples", type=int, default=1, metavar="N", help="samples of each prompt (default: %(default)s)")
    add("--max-tokens", type=int, metavar="N", help=f"response limit (default: {MAX_TOKENS}, or half the model's positions)")
    add("--max-prompt-tokens", type=int, metavar="N", help="prompt limit, template included (default: the longest prompt's)")
    add("--seed", type=int, default=0, metavar="N", help="another seed, other samples (default: %(default)s)")
    add = parser.add_argument_group("sampling").add_argument
    add("--temperature", type=float, default=1.0, metavar="T", help="0 is greedy (default: %(default)s)")
    add("--top-k", type=int, default=0, metavar="K", help="only the K most likely tokens (default: 0, all)")
    add("--top-p", type=float, default=1.0, metavar="P", help="only the most likely tokens that reach P (default: 1, all)")
    add("--stop-ids", type=int, nargs="+", default=[], metavar="ID", help="ids that end a response, beside the model's own")
    add("--enable-thinking", action="store_true", help="switch of Qwen3's chat template; other templates ignore it")
    add = parser.add_argument_group("how the work is done").add_argument
    add("--slots", type=int, metavar="N", help=f"sequences decoded at once (default: {SLOTS}, less for less work)")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16, on CPU float32")
    add("--kernel", choices=["auto", *KERNELS], default="auto", help="decode attention (default: %(default)s)")
    add("--kv-cache", choices=CACHES, default="compute", help="in the compute dtype or int8 (default: %(default)s)")
    add("--weights", choices=WEIGHTS, default="compute", help="in the compute dtype or int8 (default: %(default)s)")
    add("--tensor", type=int, default=1, metavar="N", help="devices that share each layer; slots are spread over the rest")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        generate(args)
    except (ValueError, OSError) as e:
        say(f"error: {e}")
        return 2
    except KeyboardInterrupt:
        say("stopped by Ctrl-C; the same command goes on from there")
        return 130
    return 0


if __name__ == "__main__":
    start_processes()
    sys.exit(main())
