"""Distil one random model into another, with gopd_jax as a library.

Two small random models, no files and no download: the student learns what the teacher prefers,
from samples of its own. It takes about 15 seconds on one CPU core:

    python -m examples.distil_two_models

docs/library.md explains the names. The notebook beside this file is made from it.
"""

# %%
import jax
import numpy as np

from gopd_jax.learner.learner import FrozenModel, Learner
from gopd_jax.learner.packing import BatchShape
from gopd_jax.learner.scoring import with_scores
from gopd_jax.learner.settings import LearnerSettings
from gopd_jax.learner.sources import in_order, to_examples
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import init_params
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.types import EncodedPrompt, Prompt, Request

STEPS, SAMPLES, PROMPT_TOKENS, RESPONSE_TOKENS, STOP = 30, 256, 4, 12, 0

# %% [markdown]
# **Three models.** Parameters are plain pytrees. The student begins near the uniform distribution,
# and the reference is its start. The larger output head of the teacher makes it prefer some tokens.

# %%
sizes = dict(vocab_size=16, layers=1, width=32, heads=4, kv_heads=2, head_size=8, mlp_width=64)
config = ModelConfig(family="qwen3", tied_embeddings=False, **sizes)
student, reference = (init_params(config, jax.random.key(0)) for _ in range(2))
teacher = init_params(config, jax.random.key(1))
teacher["head"] *= 15
frozen = {"toy": FrozenModel("teacher", config, teacher)}  # one teacher for each domain
frozen_reference = FrozenModel("reference", config, reference)

# %% [markdown]
# **Engine and learner.** They share a mesh and a table of compiled programs. `reward_scales` is
# lambda by domain: 1 copies the teacher, and 1.25 extrapolates beyond it, away from the reference.

# %%
programs = ProgramTable(make_mesh())
lengths = dict(max_prompt_tokens=PROMPT_TOKENS, max_response_tokens=RESPONSE_TOKENS)
engine = RolloutEngine(config, programs.mesh, [STOP], slots=SAMPLES, programs=programs, **lengths)
learner = Learner(
    config,
    programs,
    LearnerSettings(learning_rate=0.03),
    reward_scales={"toy": 1.25},
    shape=BatchShape(examples=SAMPLES, longest=PROMPT_TOKENS + RESPONSE_TOKENS),
    updates=STEPS,
)

# %% [markdown]
# **Prompts.** Token ids, drawn at random. A prompt's id seeds its samples; its domain chooses the
# teacher. With text, `ChatTokenizer` makes the ids.


# %%
def requests_of(step):
    prompts_BT = np.random.default_rng(step).integers(1, 16, (SAMPLES, PROMPT_TOKENS), np.int32)
    named = [Prompt(f"{step}/{i}", (), domain="toy", ground_truth="") for i in range(SAMPLES)]
    encoded = map(EncodedPrompt, named, prompts_BT)
    return [Request(prompt, sample_id=0, max_tokens=RESPONSE_TOKENS) for prompt in encoded]


# %% [markdown]
# **The loop.** Draw, score, update. The KL divergence from student to teacher is estimated on the
# drawn tokens.

# %%
state, kl = learner.start(student), []
for step in range(STEPS):
    key = jax.random.fold_in(jax.random.key(2), step)
    rollouts = in_order(engine(engine.sync_weights(state.params), requests_of(step), key))
    (examples,) = to_examples(rollouts, reward_scales=learner.reward_scales)
    scored = with_scores(learner, examples, frozen, frozen_reference)
    state, metrics, _ = learner.update(state, learner.pack(scored))
    kl.append(metrics.diagnostics.finish(["toy"])["reverse_kl_teacher"])
    if step % 5 == 0 or step == STEPS - 1:
        print(f"step {step:2}: KL(student || teacher) {kl[-1]:.3f} nats per token")
