#!/usr/bin/env python3
"""Gives every configuration class of transformers that has experts to `moec import`, and prints what became of each.

    survey.py MOEC [--only NAME] [--keep DIR]

Where torch is there too, a small block of each model is made as transformers makes it, with random weights, written under the
names that published files have and under those of its modules, imported with `--check`, run, and compared.

    right      imported, and the layer that moec ran gives the block's output
    imported   imported, and no block was run: the last column says why
    refused    refused, with the reason
    stopped    an error that asks for something else of the file
    unknown    the model type is not known
    wrong      imported, and the outputs differ

transformers is taken from PYTHONPATH; `make survey` puts it into .tools/ where it is not there. survey.txt is what it printed
last, with torch."""

import argparse
import importlib
import inspect
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import transformers  # noqa: E402
from transformers import PreTrainedConfig  # noqa: E402

try:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.models.auto import modeling_auto
except ImportError:
    torch = None

EXPERTS = re.compile(r"(^|_)(experts?|moe)(_|$)")
TOKENS, HIDDEN, TOLERANCE = 19, 32, 1e-5

# Sizes of a small block.
SMALL = {
    "hidden_size": 32, "d_model": 32, "num_local_experts": 8, "num_experts": 8, "n_routed_experts": 8, "moe_num_experts": 8,
    "num_experts_per_tok": 3, "num_experts_per_token": 3, "moe_topk": 3, "moe_k": 3, "moe_top_k": 3, "moe_intermediate_size": 8,
    "moe_shared_expert_intermediate_size": 12, "shared_expert_intermediate_size": 12, "shared_experts_intermediate_size": 12,
    "share_expert_dim": 12, "shared_intermediate_size": 12, "expert_ffn_hidden_size": 8, "ffn_hidden_size": 8, "d_ff": 8,
    "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "zero_expert_num": 2, "num_attention_heads": 4, "n_heads": 4,
    "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 40, "moe_hidden_size": 16, "hidden_size_per_layer_input": 8,
    "n_group": 2, "num_expert_group": 2, "topk_group": 1, "text_hidden_size": 32, "adapter_out_dim": 32, "out_hidden_size": 32,
}
# Tables of a config that are no part of the text model.
OTHERS = re.compile("vision|audio|backbone|talker|code2wav|rope|quant|layer_config")
# Fields without which a class gives no model, or no MoE layer; by its folder or its name.
NEEDED = {
    "deepseek_v4": {"vocab_size": 64},
    "deepseek_v2": {"num_experts_per_tok": 3, "topk_method": "greedy"},
    "deepseek_ocr2": {"num_experts_per_tok": 3, "topk_method": "greedy", "mlp_layer_types": ["dense"] + ["sparse"] * 31},
    "dots1": {
        "n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 3, "moe_intermediate_size": 8, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1,
    },
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["full_attention"] * 32},
    "gemma4": {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 3, "moe_intermediate_size": 8},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "shared_intermediate_size": 12},
    "granitemoeshared": {"shared_intermediate_size": 12},
    "dots3_note": {"head_dim": 256, "num_attention_heads": 128, "num_key_value_heads": 128},
    "unlimited_ocr": {"topk_method": "group_limited_greedy"},
    "Qwen3OmniMoeTalkerConfig": {"shared_expert_intermediate_size": 12},
    "Qwen3OmniMoeTalkerTextConfig": {"shared_expert_intermediate_size": 12},
    "phimoe": {"num_experts_per_tok": 2},
    "qwen4_exp": {
        "indexer_budget": 64, "indexer_compress_ratio": 4, "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8,
    },
}

# Blocks of transformers that do not compute what their model does.
FAULTS = {"nllb_moe": "its block gives a mask to code that takes indices, since 5.0; that of 4.57 is among the tests"}


def classes():
    """Every configuration class with experts: (folder, class)."""
    base = pathlib.Path(transformers.__file__).parent / "models"
    for file in sorted(base.glob("*/configuration_*.py")):
        module = importlib.import_module(f"transformers.models.{file.parent.name}.{file.stem}")
        for name, cls in sorted(vars(module).items()):
            if inspect.isclass(cls) and issubclass(cls, PreTrainedConfig) and cls.__module__ == module.__name__:
                try:
                    fields = cls().to_dict()
                except Exception:  # a class whose defaults are no configuration
                    continue
                if any(EXPERTS.search(key) for key in keys(fields)):
                    yield file.parent.name, cls


def keys(fields):
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from keys(value)
        elif value is not None:
            yield str(key)


def small(fields):
    """The configuration with the sizes of a small block."""
    for key, value in fields.items():
        if isinstance(value, dict):
            if not OTHERS.search(key):
                small(value)
            elif key in ("vision_config", "audio_config"):
                value.update({name: SMALL[name] for name in ("text_hidden_size", "adapter_out_dim", "out_hidden_size") if name in value})
        elif key in SMALL and value is not None and not isinstance(value, bool):
            size = SMALL[key]
            if key == "intermediate_size" and "moe_intermediate_size" not in fields:
                size = SMALL["moe_intermediate_size"]
            if key.startswith("num_experts_per_tok") and value == 1:
                size = 1
            fields[key] = [size] * len(value) if isinstance(value, list) else size
    return fields


def configuration(folder, cls, shrink):
    fields = cls().to_dict()
    fields = small(fields) if shrink else fields
    text = fields["text_config"] if isinstance(fields.get("text_config"), dict) else fields
    text.update(NEEDED.get(folder, {}) | NEEDED.get(cls.__name__, {}))
    for table in (fields, text):
        table["dtype"] = "float32"
    fields.pop("transformers_version", None)
    if not fields.get("model_type") and cls.model_type:
        fields["model_type"] = cls.model_type
    return fields


def moec(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    said = re.search(r"error\[(MOE\d+)\]: (.*)", done.stderr)
    why = re.findall(r"\^+ (.*)|╰─+ (.*)", done.stderr)
    reason = next((a or b for a, b in why if a or b), "")
    return done.returncode, said.group(1) if said else "", (said.group(2) if said else done.stderr.strip()[:120]), reason


def imported(program, path, *rest):
    """Imports, of layers that differ the first that is a MoE layer: (layer or None, code, message, reason)."""
    layers = [None, *range(64)]
    for layer in layers:
        which = [] if layer is None else ["--layer", layer]
        status, code, message, reason = moec(program, "import", path, *which, *rest)
        if code not in ("MOE1002", "MOE1004") or (code == "MOE1002" and layer is None and "no layer" in message):
            break
    return layer, status, code, message, reason


def model_of(folder, cls, config):
    """The model on the meta device: it has names and no memory."""
    tables = ["MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
              "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING", "MODEL_MAPPING"]
    if not hasattr(config, "text_config"):
        tables = tables[1:]
    model = None
    for table in tables:
        try:
            model = getattr(modeling_auto, table)[cls]
            break
        except KeyError:
            pass
    if model is None:
        module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
        named = [c for n, c in sorted(vars(module).items()) if inspect.isclass(c) and getattr(c, "config_class", None) is cls]
        named = [c for c in named if not c.__name__.endswith("PreTrainedModel")]
        named.sort(key=lambda c: not c.__name__.endswith(("ForConditionalGeneration", "ForCausalLM")))
        if not named:
            raise LookupError("no model has this configuration")
        model = named[0]
    model = model[0] if isinstance(model, (tuple, list)) else model
    with torch.device("meta"):
        return model(config)


def fill(block, generator):
    """Random weights, large enough at the router that no two experts are near."""
    for name, tensor in [*block.named_parameters(), *block.named_buffers()]:
        if not tensor.is_floating_point():
            rows = [torch.randperm(8, generator=generator)[: tensor.shape[-1]] for _ in range(tensor.numel() // tensor.shape[-1])]
            tensor.copy_(torch.stack(rows).reshape(tensor.shape))
            continue
        values = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() >= 2:
            values /= math.sqrt(tensor.shape[-1]) / (1.5 if re.search("gate|router", name) else 1.0)
        elif "norm" in name or "bias" not in name:
            values = 1 + 0.3 * values
        else:
            values *= 0.3
        tensor.copy_(values)


def is_block(name, module):
    has_experts = hasattr(module, "experts") or type(module).__name__ == "JetMoeMoE"
    return has_experts and re.search(r"\.\d+\.", name + ".") and "attention" not in name and not name.endswith("experts")


def block_files(folder, cls, fields, to):
    """Writes the config, and a MoE block of the model: its input, its output, and its tensors under both kinds of names. Gives
    the number of its layer."""
    config = cls(**{key: value for key, value in fields.items() if key != "model_type"})
    for table in (config, getattr(config, "text_config", None)):
        if table is not None:
            table._experts_implementation = "eager"
    model = model_of(folder, cls, config)
    blocks = [(name, module) for name, module in model.named_modules() if is_block(name, module)]
    if not blocks:
        raise LookupError("no module has experts")
    name, block = blocks[0]
    layer = int(re.search(r"\.(\d+)(\.|$)", name).group(1))
    if name.split(".")[-1].isdigit():
        raise LookupError("its block is the decoder layer itself")
    block.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(sum(map(ord, cls.__name__)))
    with torch.no_grad():
        fill(block, generator)
        block.float().eval()
        tokens = torch.randn(1, TOKENS, HIDDEN, generator=generator)
        more = {}
        if "input_ids" in inspect.signature(block.forward).parameters:
            more["input_ids"] = torch.randint(0, 64, (1, TOKENS), generator=generator)
        output = block(tokens, **more)
    output = output[0] if isinstance(output, tuple) else output
    modules = {f"{name}.{key}": value.detach().contiguous().clone() for key, value in block.state_dict().items()}
    # A sibling of the block that belongs to the layer.
    beside = re.sub(r"[^.]+$", "shared_mlp", name)
    if beside in dict(model.named_modules()):
        shared = model.get_submodule(beside).to_empty(device="cpu")
        with torch.no_grad():
            fill(shared, generator)
            output = output + shared.float().eval()(tokens).reshape(output.shape)
        modules |= {f"{beside}.{key}": value.detach().contiguous().clone() for key, value in shared.state_dict().items()}
    published = revert_weight_conversion(model, dict(modules))
    tensors = {"in.hidden": tokens.reshape(TOKENS, HIDDEN), "out.hidden": output.reshape(TOKENS, HIDDEN)}
    if more:
        tensors["in.token_ids"] = more["input_ids"].reshape(TOKENS).to(torch.int32)
    saved = config.to_dict() | {"model_type": fields["model_type"], "architectures": [type(model).__name__], "dtype": "float32"}
    (to / "config.json").write_text(json.dumps(saved, indent=1, default=str))
    for kind, weights in (("published", published), ("modules", modules)):
        save_file({key: value.contiguous() for key, value in (tensors | weights).items()}, to / f"{kind}.safetensors")
    return layer


def ran(program, to, layer, weights):
    """The largest difference from the block's output, as a part of the largest output, or in words why there is none."""
    spec, found, file = to / "spec.toml", to / "found.safetensors", to / f"{weights}.safetensors"
    status, _, message, reason = moec(program, "import", to / "config.json", "--layer", layer, "--check", file, "-o", spec)
    if status:
        return f"{weights}: {message} {reason}".strip()
    status, _, message, _ = moec(program, "run", spec, "--weights", file, "--input", f"{file}:in.hidden", "--output", found)
    if status:
        return f"{weights}: run: {message}"
    expected, actual = load_file(file)["out.hidden"], load_file(found)["out.hidden"]
    return float((actual - expected).abs().max() / expected.abs().max())


def verdict(program, folder, cls, keep):
    """(result, what)"""
    with tempfile.TemporaryDirectory() as scratch:
        to = keep / f"{folder}.{cls.__name__}" if keep else pathlib.Path(scratch)
        to.mkdir(parents=True, exist_ok=True)
        path = to / "config.json"
        path.write_text(json.dumps(configuration(folder, cls, False), indent=1, default=str))
        _, status, code, message, reason = imported(program, path)
        if status:
            result = {"MOE1001": "unknown", "MOE1005": "refused", "MOE1002": "refused"}.get(code, "stopped")
            return result, f"{code} {message}{': ' + reason if reason else ''}"
        if torch is None or folder in FAULTS:
            return "imported", FAULTS.get(folder, "torch is not there")
        try:
            layer = block_files(folder, cls, configuration(folder, cls, True), to)
        except Exception as error:  # what a class wants beside small sizes is not known here
            return "imported", f"no small block: {str(error).splitlines()[0][:90] if str(error) else type(error).__name__}"
        errors = [ran(program, to, layer, weights) for weights in ("published", "modules")]
        failed = [error for error in errors if isinstance(error, str) or not error <= TOLERANCE]
        return ("wrong", str(failed[0])) if failed else ("right", f"layer {layer}, both kinds of names, within {TOLERANCE}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moec")
    parser.add_argument("--only", action="append", help="a folder of transformers/models; all by default")
    parser.add_argument("--keep", type=pathlib.Path, help="where configs and tensors are left")
    given = parser.parse_args()
    program = str(pathlib.Path(given.moec).resolve())
    print(f"transformers {transformers.__version__}, torch {'-' if torch is None else torch.__version__.split('+')[0]}")
    counts = {}
    for folder, cls in classes():
        if given.only and folder not in given.only:
            continue
        result, what = verdict(program, folder, cls, given.keep)
        counts[result] = counts.get(result, 0) + 1
        print(f"{result:9} {cls.model_type or '-':26} {cls.__name__:32} {what}", flush=True)
    print(f"{sum(counts.values())} configurations: " + ", ".join(f"{count} {result}" for result, count in sorted(counts.items())))
    sys.exit(1 if counts.get("wrong") else 0)


if __name__ == "__main__":
    main()
