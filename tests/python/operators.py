"""Layers in PyTorch: `operators.py FOLDER`, with MOEC in the environment. Every check is an assertion; a line is printed for each group."""

import copy
import os
import pickle
import sys
import threading
import warnings

import torch
from made import BLOCKS, compiled, refused
from safetensors.torch import load_file

FOLDER = sys.argv[1]
torch.set_num_threads(2)
PANELS = '\n[host]\npack = "panels"\n'


def tensors_of(name):
    file = load_file(BLOCKS / f"{name}.safetensors")
    return {key[2:]: value for key, value in file.items() if key.startswith("w.")}, file


def spec_of(name, rename=None):
    text = (BLOCKS / f"{name}.toml").read_text()
    return text.replace(f'name = "{name}"', f'name = "{rename}"', 1) if rename else text


def differs(y, expected):
    return ((y.double() - expected.reshape(y.shape).double()).abs().max() / expected.double().abs().max()).item()


def published_blocks():
    worst, count = 0.0, 0
    for path in sorted(BLOCKS.glob("*.toml")):
        if 'mode = "hash"' in path.read_text():
            print(f"  {path.stem} needs the size of its table in the spec: left out")
            continue
        module = compiled(FOLDER, path.stem, path.read_text())
        names = [param.name for param in module.layer.library.inputs]
        if names != ["x"]:
            print(f"  {path.stem} also takes {', '.join(names[1:])}: left out")
            continue
        weights, file = tensors_of(path.stem)
        with torch.inference_mode():
            y = module.MoELayer.from_state_dict(weights)(file["in.hidden"])
        worst, count = max(worst, differs(y, file["out.hidden"])), count + 1
        assert worst <= 2e-5, (path.stem, worst)
    assert count >= 45
    print(f"{count} published blocks by MoELayer.from_state_dict: error at most {worst:.1e} of the largest output (at most 2e-5)")


def operators(module, weights, x):
    op, out = module.layer.call, module.layer.call_out
    layer = module.MoELayer.from_state_dict(weights)
    given = layer.weights()
    y = op(x, given)
    for prepared in {None, layer.prepared}:
        assert torch.equal(op(x, given, prepared), y)
        for check in (torch.library.opcheck(op, (x, given, prepared)),):
            assert set(check.values()) == {"SUCCESS"}, check
        workspace = torch.empty(module.layer.library.workspace_bytes(len(x)), dtype=torch.uint8)
        into = torch.full_like(x, float("nan"))
        out(x, given, prepared, 0, into, workspace)
        assert torch.equal(into, y)
        check = torch.library.opcheck(out, (x, given, prepared, 0, torch.empty_like(x), workspace))
        assert set(check.values()) == {"SUCCESS"}, check
    assert layer(x[:0]).shape == (0, x.shape[1])
    return layer, y


def graphs(layer, x):
    with torch.no_grad():
        for backend in ("aot_eager", "inductor"):
            torch._dynamo.reset()
            compiled_layer = torch.compile(lambda a: layer(a * 2) + 1, backend=backend, fullgraph=True, dynamic=True)
            for tokens in (1, 7, 19):
                assert torch.equal(compiled_layer(x[:tokens]), layer(x[:tokens] * 2) + 1), backend
        tokens = torch.export.Dim("T", min=1, max=4096)
        for strict in (False, True):
            program = torch.export.export(layer, (x,), dynamic_shapes=({0: tokens},), strict=strict)
            path = os.path.join(FOLDER, "layer.pt2")
            torch.export.save(program, path)
            for made in (program.module(), torch.export.load(path).module()):
                for count in (1, 7, 19):
                    assert torch.equal(made(x[:count]), layer(x[:count]))
        # With sequences.
        batch = torch.stack([x, x.flip(0)])
        program = torch.export.export(layer, (batch,), dynamic_shapes=({0: torch.export.Dim("B"), 1: torch.export.Dim("S")},))
        assert torch.equal(program.module()(batch[:, :5]), layer(batch[:, :5]))
        assert torch.equal(layer(batch)[1], layer(x.flip(0)))


def memory(module, weights, x):
    """Pointers: nothing is copied that lies as the layer needs it."""
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    pools = module.layer._pools

    def records():
        return [record for key, pool in pools.items() if layer.router.data_ptr() in key for record in pool]

    layer = module.MoELayer.from_state_dict(weights)
    shared = {name for name, tensor in zip(layer._names, layer.weights()) if tensor.data_ptr() in {w.data_ptr() for w in weights.values()}}
    assert shared == {"router", "down"}, shared
    x = x.clone()
    y = layer(x)
    (record,) = records()
    assert [tensor.data for tensor in record.activations] == [x.data_ptr(), y.data_ptr()]
    # What is gone is not kept.
    before = len(pools)
    del layer, record
    assert len(pools) == before - 1
    # Rows that follow another are no other memory.
    layer = module.MoELayer.from_state_dict(weights)
    assert torch.equal(layer(x)[3:], layer(x[3:]))
    assert torch.equal(layer(x.t().contiguous().t()), layer(x))


def errors(module, weights, x):
    layer = module.MoELayer.from_state_dict(weights)
    op, given, name = module.layer.call, layer.weights(), module.layer.library.name
    with refused(ValueError, f"{name}: `x` is (19, 31), not (19, 32)"):
        op(x[:, 1:].contiguous(), given)
    with refused(ValueError, "`x` is torch.float16, not torch.float32"):
        op(x.half(), given)
    with refused(ValueError, "`x` is not contiguous"):
        op(x.t().contiguous().t(), given)
    with refused(ValueError, "3 weights, not 4"):
        op(x, given[:3])
    with refused(ValueError, "`up` is (32, 16, 32)" if given[2].shape[0] == 16 else "`up` is"):
        op(x, [given[0], given[1], given[2].transpose(0, 1), given[3]])
    with refused(ValueError, "no gradients yet"):
        layer(x.clone().requires_grad_())
    with refused(ValueError, "inputs beside x are none"):
        layer(x, token_mask=x)
    with refused(ValueError, "there is no tensor"):
        module.MoELayer.from_state_dict({})
    with refused(ValueError, "which is not the weight `down`"):
        module.MoELayer.from_state_dict({**weights, "experts.down_proj": weights["experts.down_proj"][:, 1:]})
    with refused(ValueError, "does not use extra"):
        block = torch.nn.Module()
        for key, tensor in {**weights, "extra": x}.items():
            block.register_parameter(key.replace(".", "_"), torch.nn.Parameter(tensor))
        block.named_parameters = lambda: [(key, tensor) for key, tensor in {**weights, "extra": x}.items()]
        module.MoELayer.from_pretrained_block(block)
    with refused(ValueError, "workspace"):
        module.layer.call_out(x, given, None, 0, torch.empty_like(x), torch.empty(64, dtype=torch.uint8))
    # After an error the layer is as it was.
    assert torch.equal(op(x, given), layer(x))
    # Through the operator alone PyTorch warns.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        op(x.clone().requires_grad_(), given).sum().backward()
    assert any("autograd kernel was not registered" in str(warning.message) for warning in said), said


def prepared(module, weights, x):
    layer = module.MoELayer.from_state_dict(weights)
    assert layer.prepared is not None and "prepared" not in layer.state_dict()
    y, given = layer(x), layer.weights()
    op = module.layer.call
    # It lies elsewhere, where an address need not be a multiple of 256.
    for skipped in range(0, 256, 32):
        moved = torch.empty(layer.prepared.numel() + 256, dtype=torch.uint8)[skipped:][:layer.prepared.numel()].copy_(layer.prepared)
        assert torch.equal(op(x, given, moved), y)
    with refused(ValueError, "`prepared` is not what moec::"):
        op(x, given, torch.zeros_like(layer.prepared))
    with refused(ValueError, "`prepared` is not what moec::"):
        op(x, given, layer.prepared[1:])
    # New weights are prepared anew.
    other = {name: tensor * 0.5 for name, tensor in layer.state_dict().items()}
    fresh = module.MoELayer(other)
    layer.load_state_dict(other)
    assert torch.equal(layer(x), fresh(x)) and not torch.equal(layer(x), y)


def copies(module, weights, x):
    layer = module.MoELayer.from_state_dict(weights)
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), y)
    assert torch.equal(layer.double().float()(x), y)


def threads(module, weights, x):
    layer = module.MoELayer.from_state_dict(weights)
    sizes = [1, 3, 19, 11, 19, 2, 7, 19]
    expected = [layer(x[:size]) for size in sizes]
    wrong = []

    def run(size, y):
        for _ in range(200):
            if not torch.equal(layer(x[:size]), y):
                wrong.append(size)

    running = [threading.Thread(target=run, args=given) for given in zip(sizes, expected)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not wrong, wrong
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(layer(x[:1]), expected[0]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def masks():
    """An input beside x, and sequences: capacity of each."""
    text = spec_of("mixtral", "masked") + '\n[tokens]\nmask = true\n[capacity]\nfactor = 1.0\ncount_k = true\nround = "ceil"\ngroup = "sequence"\n'
    module = compiled(FOLDER, "masked", text)
    weights, file = tensors_of("mixtral")
    layer, x = module.MoELayer.from_state_dict(weights), file["in.hidden"].reshape(19, 32)[:18]
    mask = torch.ones(2, 9, dtype=torch.int32)
    mask[1, 4:] = 0
    y = layer(x.reshape(2, 9, 32), token_mask=mask)
    assert y.shape == (2, 9, 32) and not y[1, 4:].any()
    assert torch.equal(y[0], layer(x[:9].reshape(1, 9, 32), token_mask=mask[:1])[0])
    assert not torch.equal(y.reshape(18, 32), layer(x, token_mask=mask.reshape(18)))
    check = torch.library.opcheck(module.layer.call, (x, mask.reshape(18), layer.weights(), None, 9))
    assert set(check.values()) == {"SUCCESS"}, check
    with refused(ValueError, "inputs beside x are token_mask"):
        layer(x)


def entries(weights, x):
    """A router and its experts, which an engine may have apart."""
    text = spec_of("qwen3_moe", "apart")
    whole = compiled(FOLDER, "apart", text).MoELayer.from_state_dict(weights)
    router = compiled(FOLDER, "apart", text, "--entry", "router").MoELayer.from_state_dict(weights)
    experts = compiled(FOLDER, "apart", text, "--entry", "experts").MoELayer.from_state_dict(weights)
    ids, factors = router(x)
    assert ids.dtype == torch.int32 and ids.shape == factors.shape == (19, 4)
    assert torch.equal(experts(x, topk_ids=ids, topk_weights=factors), whole(x))
    batch = x[:18].reshape(2, 9, 32)
    ids, factors = router(batch)
    assert ids.shape == (2, 9, 4)
    assert torch.equal(experts(batch, topk_ids=ids, topk_weights=factors), whole(batch))


published_blocks()
weights, file = tensors_of("qwen3_moe")
x = file["in.hidden"].reshape(19, 32)
with torch.no_grad():
    for name, more in (("plain", ""), ("panels", PANELS)):
        module = compiled(FOLDER, name, spec_of("qwen3_moe", name) + more)
        layer, y = operators(module, weights, x)
        assert differs(y, file["out.hidden"]) <= 2e-5
        print(f"{name}: opcheck of both operators")
        graphs(layer, x)
        print(f"{name}: torch.compile (aot_eager, inductor; fullgraph, dynamic T), torch.export with dynamic T, saved and loaded")
        copies(module, weights, x)
        threads(module, weights, x)
        print(f"{name}: copies, pickles, 8 threads, a child process")
    memory(sys.modules["plain"], weights, x)
    print("plain: weights and tokens are read where they lie")
    prepared(sys.modules["panels"], weights, x)
    print("panels: prepared memory is a tensor like any other")
    masks()
    entries(weights, x)
    print("masks, sequences, entries")
errors(sys.modules["plain"], weights, x)
print("errors")
