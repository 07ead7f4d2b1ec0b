"""The decoder against transformers on PyTorch: each component, then logits.

In float32, on random tiny models.
"""

import dataclasses

import jax
import jax.numpy as jnp
from model_cases import CASES
import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="parity with transformers needs PyTorch: pip install torch==2.13.0"
)
import transformers  # noqa: E402

from gopd_jax.models.attention import Layout  # noqa: E402
from gopd_jax.models.config import from_hf, to_hf  # noqa: E402
from gopd_jax.models.decoder import Attention, Block, Decoder, Mlp, RMSNorm, output_head  # noqa: E402
from gopd_jax.models.huggingface import load_params  # noqa: E402
from gopd_jax.models.huggingface_save import save_pretrained  # noqa: E402
from gopd_jax.models.moe import Moe  # noqa: E402
from gopd_jax.models.rope import rotation  # noqa: E402

B, T = 2, 90  # longer than the 64 positions that the llama3 case takes for its original length
TOLERANCE = 1e-4
HERE = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """Config, parameters, torch model: drawn by torch, written by transformers, read here."""
    config = CASES[request.param]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        to_hf(config), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return config, load_params(folder, from_hf(model.config), "float32", HERE), model


def _tokens(config, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (B, T), dtype=np.int32)


def _hidden(config):
    return np.random.default_rng(1).normal(size=(B, T, config.width)).astype(np.float32)


def _layer(params, i=1):
    return jax.tree.map(lambda p: p[i], params["layers"])


def _layout(config):
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    ones = jnp.ones((B, T), jnp.int32)
    return Layout(*rotation(config, positions), ones, ones, jnp.arange(T), jnp.arange(T))


def _torch_context(model, x):
    """What transformers hands to a layer: cos and sin, and the additive causal mask."""
    positions = torch.arange(T).expand(B, T)
    mask = torch.full((T, T), torch.finfo(torch.float32).min).triu(1).expand(B, 1, T, T)
    return {
        "position_embeddings": model.model.rotary_emb(torch.tensor(x), positions),
        "attention_mask": mask,
    }


def _same(ours, theirs):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 1e-2
    difference = float(np.abs(np.asarray(ours) - theirs).max())
    print(f"max difference {difference:.2e}")
    assert difference < TOLERANCE


def test_norm(pair):
    config, params, model = pair
    x = _hidden(config)
    ours = RMSNorm(config.norm_eps).apply({"params": _layer(params)["mlp_norm"]}, x)
    _same(ours, model.model.layers[1].post_attention_layernorm(torch.tensor(x)))


def test_norm_of_small_activations_sees_epsilon(pair):
    config, params, model = pair
    x = 1e-3 * _hidden(config)
    ours = RMSNorm(config.norm_eps).apply({"params": params["final_norm"]}, x)
    _same(ours, model.model.norm(torch.tensor(x)))


def test_rope(pair):
    config, _, model = pair
    positions = np.array([[0, 1, 17, 63, 200, 511]])
    theirs = model.model.rotary_emb(torch.zeros(1), torch.tensor(positions))
    for ours, cos_or_sin in zip(rotation(config, jnp.asarray(positions)), theirs, strict=True):
        _same(np.concatenate([ours, ours], -1), cos_or_sin)


def test_attention(pair):
    config, params, model = pair
    x = _hidden(config)
    ours, _ = Attention(config).apply(
        {"params": _layer(params)["attention"]}, x, _layout(config), None
    )
    _same(ours, model.model.layers[1].self_attn(torch.tensor(x), **_torch_context(model, x))[0])


def test_mlp(pair):
    config, params, model = pair
    x = _hidden(config)
    mlp = Moe if config.experts else Mlp
    _same(
        mlp(config).apply({"params": _layer(params)["mlp"]}, x),
        model.model.layers[1].mlp(torch.tensor(x)),
    )


def test_block(pair):
    config, params, model = pair
    x = _hidden(config)
    ours, _ = Block(config).apply({"params": _layer(params)}, x, _layout(config))
    _same(ours, model.model.layers[1](torch.tensor(x), **_torch_context(model, x)))


def _logits(config, params, tokens, positions, segments):
    hidden = Decoder(config).apply({"params": params}, tokens, positions, segments)
    return hidden @ output_head(params).T


def test_logits(pair):
    config, params, model = pair
    tokens = _tokens(config)
    positions = np.broadcast_to(np.arange(T), (B, T))
    ours = _logits(config, params, tokens, positions, np.ones((B, T), np.int32))
    _same(ours, model(torch.tensor(tokens)).logits)


def test_saved_folder_gives_the_same_logits_in_transformers(pair, tmp_path):
    config, params, model = pair
    folder = save_pretrained(
        tmp_path / "saved", config, params, dtype="float32", shard_bytes=30_000
    )
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    tokens = torch.tensor(_tokens(config))
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, model(tokens).logits, atol=0, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_random_mixtures(seed, tmp_path):
    """Logits, and weights both ways: drawn by transformers, read here, written, read by it."""
    rng = np.random.default_rng(seed)
    heads, kv_heads = [(4, 1), (4, 2), (6, 3), (2, 2)][seed]
    config = dataclasses.replace(
        CASES["qwen3_moe_untied"],
        layers=int(rng.integers(1, 4)),
        width=int(rng.choice([24, 32, 40])),
        heads=heads,
        kv_heads=kv_heads,
        experts=(experts := int(rng.integers(2, 20))),
        experts_per_token=int(rng.integers(1, experts + 1)),
        moe_mlp_width=int(rng.choice([8, 20, 36])),  # torch asks for multiples of 16 bytes
        norm_topk_prob=bool(seed % 2),
        tied_embeddings=seed == 2,
    )
    torch.manual_seed(seed)
    kind = transformers.AutoModelForCausalLM
    model = kind.from_config(to_hf(config), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "theirs")
    assert from_hf(model.config) == config
    params = load_params(tmp_path / "theirs", config, "float32", HERE)
    tokens = _tokens(config, seed)[:, :12]
    positions = jnp.broadcast_to(jnp.arange(12), tokens.shape)
    hidden = Decoder(config).apply({"params": params}, tokens, positions, jnp.ones_like(positions))
    theirs = model(torch.tensor(tokens)).logits
    _same(hidden @ output_head(params).T, theirs)
    save_pretrained(tmp_path / "ours", config, params, dtype="float32")
    again = kind.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    torch.testing.assert_close(again(torch.tensor(tokens)).logits, theirs, atol=0, rtol=0)


def test_bfloat16_files_of_transformers(pair, tmp_path):
    config, _, model = pair
    half = transformers.AutoModelForCausalLM.from_config(to_hf(config))
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16).save_pretrained(tmp_path)
    ours = load_params(tmp_path, config, "float32", HERE)
    theirs = half.float().state_dict()
    if config.experts:
        down = theirs[
            "model.layers.1.mlp.experts.down_proj"
        ].mT  # transformers 5 holds the experts of a layer in one tensor
    else:
        down = theirs["model.layers.1.mlp.down_proj.weight"].T
    np.testing.assert_array_equal(ours["layers"]["mlp"]["down"][1], down)
    np.testing.assert_array_equal(ours["embedding"], theirs["model.embed_tokens.weight"])
