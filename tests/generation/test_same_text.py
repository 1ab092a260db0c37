"""The demo model generates the same text with the compiled kernels and with the reference path."""

import shutil

import pytest
import torch
from torch import nn

import lsprism.hf  # noqa: F401 - registers the format
from lsprism import api
from lsprism.generation.prompt import encode
from lsprism.generation.stream import generate
from lsprism.models.fused_decode import enable_fused_decode
from lsprism.models.module_utils import replace_module
from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
from lsprism.packed.int8 import to_int8
from lsprism.packed.kernels.cpu import PackedBlock
from lsprism.packed.kernels.dispatch import use_kernel
from lsprism.packed.modules import DenseLinear, PrismLinear
from lsprism.specs import GenerateSpec

TOKENS = 64
NEAR = 4  # maximum difference of two logits, in rounding steps


def pruned(dtype: str, int8: bool):
    """The demo model with a third of its weights pruned by magnitude, plus low-rank factors with a small product."""
    loaded = api.load("demo", "cpu", dtype)
    torch.manual_seed(0)
    for name, layer in list(loaded.model.named_modules()):
        if type(layer) is nn.Linear and name != "lm_head":
            weight = layer.weight.data
            size = weight.float().abs()
            sparse = Sparse.pack(weight, size > size.flatten()[::50].quantile(0.3))
            left, right = torch.randn(weight.shape[0], 8) * 1e-3, torch.randn(8, weight.shape[1]) * 1e-1
            form = SparseLowRank(sparse, LowRank(left.to(weight.dtype), right.to(weight.dtype)))
            replace_module(loaded.model, name, PrismLinear(to_int8(form) if int8 else form))
        elif type(layer) is nn.Linear:
            DenseLinear.convert(layer)
    enable_fused_decode(loaded.model)
    return loaded


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.parametrize(("dtype", "int8"), [("float32", False), ("bfloat16", False), ("bfloat16", True)])
def test_greedy_text_is_that_of_the_reference(dtype, int8, monkeypatch):
    loaded, calls, end = pruned(dtype, int8), [], PackedBlock.compute_output
    monkeypatch.setattr(PackedBlock, "compute_output", lambda *args: calls.append(1) or end(*args))
    prompt = encode(loaded.tokenizer, "Explain in two sentences why the sky is blue.")
    spec = GenerateSpec(max_new_tokens=TOKENS, greedy=True, ignore_eos=True)
    said = [piece.token for piece in generate(loaded.model, loaded.tokenizer, prompt, spec)]
    assert len(said) == TOKENS and len(calls) == 30 * (TOKENS - 1)
    # The reference reads the same tokens in one pass: each must be its most likely one, given those before.
    with use_kernel("reference"), torch.inference_mode():
        words = torch.cat([prompt, torch.tensor([said])], dim=1)
        logits = loaded.model(words).logits[0, prompt.shape[1] - 1 : -1].float()
    behind = logits.max(dim=1).values - logits[range(TOKENS), said]
    step = NEAR * torch.finfo(loaded.dtype).eps * logits.abs().amax(dim=1)
    other = [(n, gap.item()) for n, gap in enumerate(behind) if gap > 0]
    assert bool((behind <= step).all()), f"not a tie: {other}"
    assert dtype == "bfloat16" or not other
