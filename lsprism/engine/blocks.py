"""Loads the model's blocks from disk one at a time and releases them again. Nothing else of the model is in memory."""

from torch import Tensor, nn

from lsprism.calibration.blockwise import BlockwiseForward, capture_block_inputs
from lsprism.engine.plan import PreparedPlan
from lsprism.errors import NumericError
from lsprism.models.module_utils import set_tensor
from lsprism.models.weights import WeightFiles, load_weights, move_buffers, release_weights


class BlockLoader:
    """Loads weights into the draft's empty model, at most one block at a time."""

    def __init__(self, draft: PreparedPlan) -> None:
        self.draft = draft
        self.weights = WeightFiles(draft.plan.source.folder, draft.model)

    def start(self, tokens: Tensor, batch_tokens: int = 0) -> BlockwiseForward:
        """Capture the inputs of the blocks for tokens [samples, length], with `batch_tokens` per forward pass."""
        model = self.draft.model
        self._load_outside()
        self.load(0)
        move_buffers(model, self.draft.device)
        blocks = model.get_submodule(self.draft.anatomy.blocks)
        assert isinstance(blocks, nn.ModuleList)
        walk = capture_block_inputs(model, blocks, tokens, self.draft.device, batch_tokens, self.draft.compute)
        release_weights(model)
        return walk

    def load(self, index: int) -> nn.Module:
        """Load the weights of block `index` onto the device and return the block."""
        name = self.draft.anatomy.get_block_name(index)
        block = self.draft.model.get_submodule(name)
        load_weights(block, name, self.weights, self.draft.device)
        return block

    def release(self, index: int) -> None:
        release_weights(self.draft.model.get_submodule(self.draft.anatomy.get_block_name(index)))

    def _is_needed_before(self, name: str) -> bool:
        """Whether a tensor outside the blocks may be needed before them: true except for an untied output head."""
        head = self.draft.model.get_output_embeddings()
        owner = self.draft.model.get_submodule(name.rpartition(".")[0])
        return owner is not head or owner is self.draft.model.get_input_embeddings()

    def _load_outside(self) -> None:
        """Check all tensors outside the blocks, and load those that run before them."""
        for layout in self.draft.outside:
            for name, tensor in self.weights.read(layout).items():
                if not _is_finite(tensor):
                    raise NumericError(f"{name} contains NaN or Inf.", "Download the model again.")
                if self._is_needed_before(name):
                    set_tensor(self.draft.model, name, tensor.to(self.draft.device))


def _is_finite(tensor: Tensor) -> bool:
    """Checks in parts: each takes as much memory again, and an embedding is large."""
    return all(part.isfinite().all() for part in tensor.reshape(-1).split(2**22))
