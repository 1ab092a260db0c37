"""Reads weights of a model and replaces its modules and tensors."""

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lsprism.models.transformers_private import disable_attention_outputs
from lsprism.packed.modules import DenseLinear, PrismLinear
from lsprism.records.model_plan import Layer


def get_weight(model: nn.Module, site: Layer) -> Tensor:
    """Weight of a layer as [rows, columns], whether the module stores it transposed or not."""
    weight = model.get_submodule(site.name).get_parameter("weight").detach()
    return weight.T.contiguous() if site.transposed else weight


def bias_of(module: nn.Module) -> Tensor | None:
    """The bias of a linear layer, if it has one."""
    bias = module.bias
    assert bias is None or isinstance(bias, Tensor)
    return bias


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module at the path `name`."""
    model.set_submodule(name, module)


def set_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace the parameter or buffer at the path `name`; shape, dtype and device may change."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, PrismLinear | DenseLinear):
        module.reset_product()
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor


def use_plain_outputs(model: PreTrainedModel) -> None:
    """Make every module return named outputs, without hidden states or attentions, whatever its config says."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            config.return_dict, config.output_hidden_states = True, False
            disable_attention_outputs(config)
