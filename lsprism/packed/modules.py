"""Modules that replace nn.Linear.

On disk, the tensors of PrismLinear are `weight` (packed values, or the left factor of a low-rank layer), `bitmap`,
`left`, `right`, `bias`, and for int8 values `scales` (of `weight`), `left_scales`, `right_scales`. The packed tensor is
named `weight` on purpose: its shape differs from the dense one, so a program that does not support this format fails
at load instead of running with random weights.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lsprism.packed.formats import (
    Dense,
    LowRank,
    PackedWeight,
    Sparse,
    SparseLowRank,
    count_bitmap_columns,
    get_shape,
    packed_from_tensors,
)
from lsprism.packed.kernels import reference
from lsprism.packed.kernels.dispatch import FEW_TOKENS, PreparedMatmul, get_active_kernel, on_recent_gpu
from lsprism.records.model_plan import FormName, Layer, LayerBudget, ValuesName

if TYPE_CHECKING:
    from lsprism.packed.kernels.group import Group
    from lsprism.packed.kernels.streamed import Packed as Streams

_STREAMED = ("weight", "bitmap")  # tensors that a recent GPU has in its own format instead
_HARMLESS = ("_product", "_streams", "_siblings", "training")  # attributes that say nothing about the weight


class PrismLinear(nn.Module):
    """y = W x + bias, with a packed weight W [out_features, in_features]."""

    weight: Tensor
    bias: nn.Parameter | None

    def __init__(self, form: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.form_name: FormName = form.name
        self.out_features, self.in_features = get_shape(form)
        for name, tensor in form.get_tensors().items():
            if tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(name, tensor)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        self._product: PreparedMatmul | None = None
        self._streams: Streams | None = None  # on a recent GPU: holds what `weight` and `bitmap` stand for
        self._siblings: list[PrismLinear] | None = None

    @property
    def form(self) -> PackedWeight:
        """The packed weight, as a view of the module's current tensors."""
        self._restore()
        return self.outline

    @property
    def outline(self) -> PackedWeight:
        """The same, but its values and bitmap may be on the meta device, while a GPU has them in its own format."""
        return packed_from_tensors(self.form_name, {**self._parameters, **self._buffers}, self.in_features)

    @property
    def group(self) -> "Group | None":
        """What a recent GPU has of this layer, and of those that are multiplied with it."""
        streams = self.__dict__.get("_streams")
        return streams and streams.group

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., out_features]."""
        return _compute_product(self, x)

    def reset_product(self) -> None:
        """Drop the prepared product, which references the module's tensors."""
        self._restore()
        self._product = None

    def _release(self, product: PreparedMatmul) -> None:
        """Let the product have the packed weight, in the GPU's own format, and drop it here."""
        for name in _STREAMED:
            tensor = self._parameters.get(name, self._buffers.get(name))
            assert tensor is not None
            self._set_tensor(name, tensor.to("meta"))
        product.release(self.outline)
        self.__dict__.update(_streams=product.streams, _product=product)

    def _restore(self) -> None:
        """Undo _release."""
        streams = self.__dict__.get("_streams")
        if streams is None:
            return
        self.__dict__.update(_streams=None, _product=None)
        for name, tensor in zip(_STREAMED, streams.restore(), strict=True):
            self._set_tensor(name, tensor)

    def _set_tensor(self, name: str, tensor: Tensor) -> None:
        with torch.inference_mode(False):
            tensor = tensor.clone() if tensor.is_inference() else tensor.detach()
            if name in self._parameters:
                self._parameters[name] = nn.Parameter(tensor, requires_grad=False)
            else:
                self._buffers[name] = tensor

    def __getattr__(self, name: str) -> Any:
        if name in _STREAMED:
            self._restore()
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HARMLESS:
            self.reset_product()
        super().__setattr__(name, value)

    def _save_to_state_dict(self, *args: Any) -> None:
        self._restore()
        super()._save_to_state_dict(*args)

    def _apply(self, *args: Any, **settings: Any) -> "PrismLinear":
        self.reset_product()  # changes dtype or device
        return super()._apply(*args, **settings)

    def _load_from_state_dict(self, *args: Any) -> None:
        self.reset_product()  # changes values in place
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        self._restore()
        return {**self.__dict__, "_product": None, "_siblings": None}  # not copied: they belong to this module

    def extra_repr(self) -> str:
        form = self.outline
        kept = form.kept / (self.out_features * self.in_features)
        return f"{self.in_features}, {self.out_features}, {form.name}, kept={kept:.1%}, rank={form.rank}"


class DenseLinear(nn.Linear):
    """A dense linear layer, such as the output head, that uses the same kernels as compressed layers.

    Converts a loaded layer in place and keeps its tensors and their names, so tied weights stay tied.
    """

    _product: PreparedMatmul | None = None

    @classmethod
    def convert(cls, layer: nn.Linear) -> None:
        """Convert `layer` in place."""
        layer.__class__ = cls

    def release(self) -> None:
        """Convert back to nn.Linear."""
        layer: nn.Linear = self
        layer.__class__ = nn.Linear
        del self._product

    def reset_product(self) -> None:
        """Like PrismLinear.forget."""
        self._product = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "_product":
            self.reset_product()
        super().__setattr__(name, value)

    def _apply(self, *args: Any, **settings: Any) -> "DenseLinear":
        self.reset_product()
        return super()._apply(*args, **settings)

    @property
    def form(self) -> PackedWeight:
        return Dense(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., out_features]."""
        return _compute_product(self, x)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_product": None}


def _compute_product(layer: PrismLinear | DenseLinear, x: Tensor) -> Tensor:
    """W x + bias. The prepared product is cached in the layer until the layer's tensors are replaced."""
    if torch.compiler.is_compiling():
        return reference.compute_linear(x, layer.form, layer.bias)
    product = get_product(layer)
    if not product.tried and x.is_cuda and x.numel() <= FEW_TOKENS * layer.in_features:
        product = _use_streams(layer, product)
    return product(x)


def get_product(layer: PrismLinear | DenseLinear) -> PreparedMatmul:
    """The prepared product of the layer's current tensors."""
    product = layer._product
    if product is None or not product.is_valid(layer._parameters, layer._buffers):
        product = layer._product = PreparedMatmul(layer.form, layer.bias)
    return product


def link_siblings(layers: list[PrismLinear]) -> None:
    """Declare that layers read the same input one after the other, so that one launch can multiply by all of them."""
    for layer in layers:
        layer._siblings = layers


def streams_for_few(layer: PrismLinear) -> "Streams | None":
    """The layer, prepared for a few tokens on a recent GPU; None where that is not possible."""
    product = get_product(layer)
    return (product if product.tried else _use_streams(layer, product)).streams


def _use_streams(layer: PrismLinear | DenseLinear, product: PreparedMatmul) -> PreparedMatmul:
    """Prepare a layer and its siblings for the kernels of recent GPUs, if they are there; the product to use.

    Only once a few tokens are to be multiplied: a compression, which reads many, has no use for it.
    """
    if get_active_kernel() == "reference":
        return product
    product.tried = True
    if not isinstance(layer, PrismLinear) or _is_offloaded(layer):
        return product
    siblings = layer.__dict__.get("_siblings") or [layer]
    for layers in [siblings, [layer]][: len(siblings)]:
        streams = on_recent_gpu([one.form for one in layers], [one.bias for one in layers])
        if streams is not None:
            for one, packed in zip(layers, streams, strict=True):
                one._release(PreparedMatmul(one.form, one.bias, packed))
            break
    return get_product(layer)


def _is_offloaded(layer: PrismLinear) -> bool:
    """Whether accelerate moves the layer's tensors to the GPU for each call."""
    return bool(getattr(layer.__dict__.get("_hf_hook"), "offload", False))


def make_meta_packed(
    site: Layer, form: FormName, budget: LayerBudget, dtype: torch.dtype, values: ValuesName = "float"
) -> PackedWeight:
    """A packed weight on the meta device, with the shapes and dtypes of the tensors stored for a layer."""
    stored = torch.int8 if values == "int8" else dtype

    def make_tensor(*shape: int, dtype: torch.dtype = stored) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def make_scales(count: int) -> Tensor | None:
        return make_tensor(count, dtype=dtype) if values == "int8" else None

    rows, columns, rank = site.rows, site.columns, budget.rank
    bitmap = make_tensor(rows, count_bitmap_columns(columns), dtype=torch.uint8)
    factors = LowRank(make_tensor(rows, rank), make_tensor(rank, columns), make_scales(rows), make_scales(rank))
    match form:
        case "sparse":
            return Sparse(make_tensor(budget.kept), bitmap, columns, make_scales(rows))
        case "low_rank":
            return factors
        case "sparse_low_rank":
            nonzeros = budget.kept - rank * (rows + columns)
            return SparseLowRank(Sparse(make_tensor(nonzeros), bitmap, columns, make_scales(rows)), factors)
        case _:
            return Dense(make_tensor(rows, columns, dtype=dtype))
