"""Decoder blocks that read one token on a recent GPU: four launches for the linear layers with the norms, the
activation and the residuals, one for the rotary embedding, and the model's own cache and attention.

Roundings are those of the model's own code, but sums are in another order.
"""

from typing import Any

from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lsprism.models.transformers_private import get_attention
from lsprism.packed.kernels import gpu
from lsprism.packed.kernels.gpu import Around
from lsprism.packed.kernels.streamed import Packed

_GROUPS = ((0, 1, 2), (3,), (4, 5), (6,))  # of query, key, value, output, gate, up, down


class GpuBlock:
    """A block's tensors as the kernels read them."""

    def __init__(self, block: Any, streams: list[Packed]) -> None:
        attention = block.self_attn
        self.attention, self.layer = attention, attention.layer_idx
        self.width = attention.head_dim
        self.qkv, self.output, self.gate_up, self.down = (streams[names[0]].group for names in _GROUPS)
        self.norms = block.input_layernorm, block.post_attention_layernorm
        self.head_norms = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)

    def run(self, x: Tensor, past: Any, position: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """x [1, 1, hidden] -> the block's output."""
        hidden = x.reshape(1, -1)
        first, second = (Around(norm=norm.weight, epsilon=norm.variance_epsilon) for norm in self.norms)
        query, key, value = self._split(self.qkv, _launch(self.qkv, hidden, first))
        weights = [None if norm is None else norm.weight for norm in self.head_norms]
        epsilon = self.norms[0].variance_epsilon
        cosine, sine = (part.reshape(-1) for part in position)
        query, key = gpu.rotate_heads(query, key, (cosine, sine), (weights[0], weights[1]), epsilon)
        new = (part.view(1, -1, 1, self.width) for part in (key, value))
        keys, values = past.update(*new, self.layer)
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        query = query.view(1, -1, 1, self.width)
        attended, _ = attend(self.attention, query, keys, values, mask, dropout=0.0, scaling=self.attention.scaling)
        after = _launch(self.output, attended.reshape(1, -1).contiguous(), Around(residual=hidden))
        inner = _launch(self.gate_up, after, second)
        return _launch(self.down, inner, Around(gated=True, residual=after)).view(x.shape)

    def _split(self, group: gpu.Group, y: Tensor) -> list[Tensor]:
        """[heads, width] of each member."""
        return [part.view(-1, self.width) for part in gpu.split_members(group, y, 1)]


def gpu_block(block: Any, streams: list[Packed | None]) -> GpuBlock | None:
    """A block whose linear layers are all in the GPU's own format, grouped by what they read; None for others."""
    packed = [one for one in streams if one is not None]
    if len(packed) != len(streams) or get_attention(block.self_attn.config) != "sdpa":
        return None
    for names in _GROUPS:
        group = packed[names[0]].group
        same = all(packed[name].group is group and packed[name].n == n for n, name in enumerate(names))
        if not same or len(group.rows) != len(names):
            return None
    made, dtype = GpuBlock(block, packed), packed[0].group.dtype
    norms = [norm for norm in (*made.norms, *made.head_norms) if norm is not None]
    fits = all(norm.weight.dtype is dtype and norm.weight.is_contiguous() for norm in norms)
    same = {one.group.dtype for one in packed} == {dtype}
    return made if fits and same and made.width in (64, 128, 192, 256) else None


def _launch(group: gpu.Group, x: Tensor, around: Around) -> Tensor:
    y = gpu.launch_group(group, x, around=around)
    if y is None:  # layers are only packed where one token fits
        raise RuntimeError("A layer does not fit the shared memory of this GPU.")
    return y
