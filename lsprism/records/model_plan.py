"""Plans of compressions: immutable records of plain values. Sizes are in bytes, names of seconds end in
`_s` or `seconds`."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from lsprism.old_names import rename_fields

SourceKind = Literal["demo", "folder", "hub", "gguf", "artifact"]
FormName = Literal["sparse", "low_rank", "sparse_low_rank", "dense"]
ValuesName = Literal["float", "int8"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ModelSource(Record):
    """A resolved model source. `folder` holds config, tokenizer and (unless `config_only`) weights."""

    model_id: str  # as given by the user
    kind: SourceKind
    folder: Path
    base_model: str  # name to cite: Hub id or folder name
    revision: str = ""
    config_only: bool = False


class Layer(Record):
    """A linear layer to compress, with weight [rows, columns] = [out, in]."""

    name: str  # path of the module in the model
    block: int  # counts from 0
    rows: int
    columns: int
    bias: bool
    transposed: bool = False  # the module stores [in, out] (Conv1D)

    @property
    def parameters(self) -> int:
        return self.rows * self.columns


class SkippedPart(Record):
    """A part of the model that is not compressed, and why."""

    name: str
    parameters: int
    reason: str


class LayerBudget(Record):
    """The parameters that one layer may keep: kept = non-zeros + rank * (rows + columns)."""

    kept: int
    rank: int = 0
    pattern: tuple[int, int] | None = None  # (n, m): keep n of every m consecutive weights in a row; None: unstructured


class ErrorPoint(Record):
    """The error of one layer at one budget."""

    density: float  # fraction of the parameters that is kept
    rank_share: float = 0.0  # fraction of the kept parameters in low-rank factors
    error: float  # ||(W - W')X||_F / ||WX||_F, as LayerReport.error


class LayerSensitivity(Record):
    """Measurements of one layer for the allocation rule; only those that the rule needs."""

    name: str
    outlier_share: float = 0.0  # fraction of the |W_ij| * ||X_j||_2 above five times the mean of the block
    effective_rank: float = 0.0  # of W: exp of the entropy of the normalized singular values
    dominant_rank: int = 0  # of W: number of singular values in the larger cluster or above it
    curve: list[ErrorPoint] = []
    harm: float = 0.0  # sensitivity: change of the block's output at 50 % sparsity of this layer; 0: unknown


class LayerPlan(Record):
    """The plan for one layer."""

    site: Layer
    budget: LayerBudget
    form: FormName
    kept: int  # parameters kept, including low-rank factors
    stored_bytes: int  # weight only, without bias
    dense_bytes: int
    note: str = ""
    values: ValuesName = "float"
    kernel: str = ""  # kernel that this machine would use, if requested
    error: float | None = None  # predicted, as LayerReport.error; None: unknown


class MemoryEstimate(Record):
    """Estimated peak memory in bytes, beyond an interpreter that has only imported the libraries.

    First the modules before the blocks are loaded and run once; then the blocks are compressed one at a time.
    """

    fixed: int  # tokenizer, model code, buffers of the numerical libraries
    outside: int  # embeddings and LM head, while the model reads the calibration text
    hidden_states: int
    block: int  # weights of one block, dense and compressed
    statistics: int
    workspace: int  # activations of one batch, the method's matrices, or one block during reconstruction
    healing: int = 0  # the whole model during distillation
    embeddings: int = 0  # part of `outside` that the forward pass needs before the first block

    @property
    def total(self) -> int:
        blocks = self.block + self.statistics + self.workspace
        return self.fixed + max(self.outside, self.hidden_states + max(blocks, self.healing))

    @property
    def parts(self) -> dict[str, int]:
        """The parts of `total` by name; healing only if it is used."""
        each = self.model_dump(exclude={"embeddings"})
        return {name: count for name, count in each.items() if count or name != "healing"}

    @property
    def on_device(self) -> int:
        """The part on the CUDA device, if one is used; hidden states stay in host memory."""
        reading = self.embeddings + self.block // 2 + self.workspace  # until the first block is reached
        return max(reading, self.block + self.statistics + self.workspace, self.healing)


class DurationEstimate(Record):
    """Predicted seconds of a compression on this machine."""

    sensitivity: float  # the pass that the allocation rule needs first; 0 if it needs none
    blocks: float

    @property
    def total(self) -> float:
        return self.sensitivity + self.blocks


class Plan(Record):
    """The plan of a compression, from the model's config and cached measurements."""

    _old_names = model_validator(mode="before")(rename_fields)

    source: ModelSource
    method: str
    sparsity: float
    allocation: str  # allocation rule
    dtype: str
    compute_dtype: str = ""  # dtype of matrix products with many tokens
    device: str
    sites: list[LayerPlan]
    left_alone: list[SkippedPart]
    model_parameters: int  # tied weights counted once
    kept_parameters: int  # of the whole model, including parts that are not compressed
    stored_bytes: int  # all safetensors files, including headers
    resident_bytes: int  # all tensors after loading
    dense_stored_bytes: int  # the uncompressed model in the same dtype
    memory: MemoryEstimate
    disk_bytes: int  # needed on the target's file system during the run
    duration: DurationEstimate | None = None  # None: unknown for this device
    dropped: list[str] = []  # parts of the config that the causal language model lacks, such as vision_config
    untied: bool = False  # config.json ties embeddings and LM head, but the stored weights differ
    notes: list[str] = []  # deviations from the request, and unknowns

    @property
    def layer_stored_bytes(self) -> int:
        return sum(p.stored_bytes for p in self.sites)

    @property
    def mean_error(self) -> float | None:
        """Mean predicted error of the layers; None unless it is known for all of them."""
        errors = [p.error for p in self.sites if p.error is not None]
        return sum(errors) / len(errors) if len(errors) == len(self.sites) else None

    @property
    def layer_dense_bytes(self) -> int:
        return sum(p.dense_bytes for p in self.sites)
