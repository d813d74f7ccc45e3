"""A small model of transformers, before and after its MoE blocks are swapped for compiled ones."""

import argparse
import time

import moec
import torch
import transformers

SIZES = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=128, pad_token_id=0)
TYPES = {
    "qwen3_moe": dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, intermediate_size=96, norm_topk_prob=True),
    "mixtral": dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=96),
    "gpt_oss": dict(num_local_experts=8, num_experts_per_tok=2, intermediate_size=64),
}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--type", choices=TYPES, default="qwen3_moe")
parser.add_argument("--panels", action="store_true", help="weights packed for this CPU")
arguments = parser.parse_args()

torch.manual_seed(1)
config = transformers.AutoConfig.for_model(arguments.type, **SIZES, **TYPES[arguments.type])
model = transformers.AutoModelForCausalLM.from_config(config).eval()
for name, parameter in model.named_parameters():
    torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.1)
ids = torch.randint(0, 128, (2, 7))
before = model.generate(ids, max_new_tokens=24, do_sample=False)

began = time.perf_counter()
names = moec.patch(model, spec='[host]\npack = "panels"' if arguments.panels else "")
print(f"{arguments.type}: {len(names)} blocks compiled in {time.perf_counter() - began:.1f} s: {', '.join(names)}")

after = model.generate(ids, max_new_tokens=24, do_sample=False)
assert torch.equal(before, after), "other tokens"
print(f"the same {after[:, 7:].numel()} tokens before and after")
