"""Models of transformers with compiled MoE blocks: `models.py FOLDER`, with MOEC and XDG_CACHE_HOME in the environment. Every check is an
assertion; a line is printed for each group."""

import sys
import time
import warnings
from pathlib import Path

from made import refused

import moec.transformers
import torch
import transformers

CACHE = Path(sys.argv[1], "models")
SIZES = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=128, pad_token_id=0)
# The toy sizes of each type, and how many of its layers have experts.
MODELS = {
    "qwen3_moe": (dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, intermediate_size=96, norm_topk_prob=True), 3),
    "mixtral": (dict(intermediate_size=96, num_local_experts=4, num_experts_per_tok=2), 3),
    "gpt_oss": (dict(intermediate_size=64, num_local_experts=8, num_experts_per_tok=2), 3),
    "qwen2_moe": (dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=48, intermediate_size=96), 3),
    "olmoe": (dict(intermediate_size=32, num_experts=8, num_experts_per_tok=2), 3),
    "deepseek_v3": (dict(intermediate_size=96, moe_intermediate_size=32, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2, n_group=2,
                         topk_group=1, first_k_dense_replace=1, q_lora_rank=32, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16,
                         v_head_dim=16, num_key_value_heads=4, head_dim=8), 2),
    "glm4_moe": (dict(intermediate_size=96, moe_intermediate_size=32, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2,
                      first_k_dense_replace=1), 2),
    "phimoe": (dict(intermediate_size=96, num_local_experts=4, num_experts_per_tok=2), 3),
    "granitemoe": (dict(intermediate_size=96, num_local_experts=4, num_experts_per_tok=2), 3),
    "ernie4_5_moe": (dict(intermediate_size=96, moe_intermediate_size=32, moe_num_experts=8, moe_k=2, moe_num_shared_experts=1,
                          moe_layer_start_index=1), 2),
}


def model_of(kind, dtype=torch.float32):
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **MODELS[kind][0]})
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.1)
    return model


def patched(model, **given):
    return moec.transformers.patch(model, cache=CACHE, **given)


def same_tokens():
    ids = torch.randint(0, 128, (2, 7), generator=torch.Generator().manual_seed(2))
    for kind, (_, count) in MODELS.items():
        model = model_of(kind)
        options = dict(max_new_tokens=24, do_sample=False)
        expected, logits = model.generate(ids, **options), model(ids).logits
        names = patched(model)
        assert len(names) == count, (kind, names)
        got = model.generate(ids, **options)
        with torch.no_grad():
            error = ((model(ids).logits - logits).abs().max() / logits.abs().max()).item()
        assert torch.equal(got, expected), kind
        assert error <= 2e-5, (kind, error)
        words = len(set(expected[:, 7:].flatten().tolist()))
        print(f"{kind}: {count} of 3 layers ({', '.join(names)}), the same {expected[:, 7:].numel()} tokens ({words} different), logits to {error:.1e}")


def others():
    ids = torch.randint(0, 128, (2, 7), generator=torch.Generator().manual_seed(3))
    # Layers of one shape are compiled once, and once for all models.
    began = time.perf_counter()
    model = model_of("qwen3_moe")
    before = len(list(CACHE.iterdir()))
    blocks = [layer.mlp for layer in model.model.layers]
    with torch.no_grad():
        expected = model(ids).logits
    patched(model)
    assert len(list(CACHE.iterdir())) == before
    print(f"a second model of the same sizes: {time.perf_counter() - began:.1f} s with the model itself")
    with torch.no_grad():
        # With torch.compile, the model is one graph still.
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(ids).logits, expected, atol=1e-4)
        # No parameter of the block was copied that lies right.
        assert model.model.layers[0].mlp.down.data_ptr() == blocks[0].experts.down_proj.data_ptr()
        # In panels, in bf16, with a bound of its own on tokens.
        model = model_of("qwen3_moe")
        patched(model, spec='[host]\npack = "panels"', max_tokens=64)
        assert torch.allclose(model(ids).logits, expected, atol=1e-4)
        with refused(ValueError, "at most 64"):
            model(ids.repeat(10, 1))
        model = model_of("qwen3_moe", torch.bfloat16)
        expected = model(ids).logits
        patched(model)
        error = ((model(ids).logits - expected).abs().max() / expected.abs().max()).item()
        assert error <= 0.05, error
    print(f"torch.compile of a model, panels, [tokens] max; bf16 to {error:.1e} of the largest logit")
    # A block alone.
    model = model_of("mixtral")
    block = model.model.layers[0].mlp
    layer = moec.transformers.compile_block(block, model.config.to_dict(), cache=CACHE)
    one = moec.transformers.MoELayer.from_pretrained_block(block, layer)
    x = torch.randn(1, 5, 64)
    with torch.no_grad():
        assert torch.allclose(one(x), block(x), atol=1e-5)


def refusals():
    config = transformers.AutoConfig.for_model("llama", **SIZES, intermediate_size=96)
    with refused(ValueError, "LlamaForCausalLM has no MoE block"):
        patched(transformers.AutoModelForCausalLM.from_config(config))
    # A tensor that the layer would not use.
    model = model_of("mixtral")
    model.model.layers[1].mlp.gate.extra = torch.nn.Parameter(torch.ones(3))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        names = patched(model)
    assert names == ["model.layers.0.mlp", "model.layers.2.mlp"], names
    assert any("did not swap model.layers.1.mlp" in str(warning.message) and "gate.extra" in str(warning.message) for warning in said), said
    # A block that does not compute what the config says.
    model = model_of("mixtral")
    right = type(model.model.layers[0].mlp)
    model.model.layers[0].mlp.__class__ = type("Other", (right,), {"forward": lambda block, x: 2 * right.forward(block, x)})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        names = patched(model)
    assert names == ["model.layers.1.mlp", "model.layers.2.mlp"], names
    assert any("Other gives something else than the layer of the config, for 8 of 8" in str(warning.message) for warning in said), said
    with refused(ValueError, "has no config"):
        patched(torch.nn.Linear(2, 2))
    print("what is refused, and what is warned of")


same_tokens()
others()
refusals()
