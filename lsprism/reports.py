"""What we answer with: frozen records of plain values with their units. Bytes are bytes, seconds end in `_s`."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lsprism.old_names import rename_fields

SourceKind = Literal["demo", "folder", "hub", "gguf", "artifact"]
FormName = Literal["sparse", "low_rank", "sparse_low_rank", "dense"]
ValuesName = Literal["float", "int8"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ModelSource(Record):
    """Where a model comes from, resolved. `folder` holds config, tokenizer and (unless `config_only`) weights."""

    model_id: str  # as the user wrote it
    kind: SourceKind
    folder: Path
    base_model: str  # a name to cite: hub id or folder name
    revision: str = ""
    config_only: bool = False


class LinearSite(Record):
    """A place in the model that holds a linear layer with weight [rows, columns] = [out, in]."""

    name: str  # path of the module in the model
    block: int  # counts from 0
    rows: int
    columns: int
    bias: bool
    transposed: bool = False  # the module stores [in, out] (Conv1D)

    @property
    def parameters(self) -> int:
        return self.rows * self.columns


class LeftAlone(Record):
    """A part of the model that is not compressed, and why."""

    name: str
    parameters: int
    reason: str


class LayerBudget(Record):
    """What one site may keep. kept = non-zeros + rank * (rows + columns), in parameters."""

    kept: int
    rank: int = 0
    pattern: tuple[int, int] | None = None  # (n, m): keep n of every m neighbours in a row; None: anywhere


class ErrorPoint(Record):
    """What one site loses at one budget."""

    density: float  # parameters kept / all
    rank_share: float = 0.0  # of the kept ones, that goes to factors
    error: float  # ||(W - W')X||_F / ||WX||_F, as LayerReport.error


class SiteTraits(Record):
    """What is known of one site before its budget is set; only what the rule of the budgets asks for."""

    name: str
    outlier_share: float = 0.0  # of |W_ij| * ||X_j||_2, those above five times the mean of their block
    effective_rank: float = 0.0  # of W: exp of the entropy of the singular values' shares
    dominant_rank: int = 0  # of W: singular values that belong to the larger cluster or are outliers
    curve: list[ErrorPoint] = []
    harm: float = 0.0  # to the hidden states behind its block, half of it removed; 0: not known


class SitePlan(Record):
    """What will become of one site."""

    site: LinearSite
    budget: LayerBudget
    form: FormName
    kept: int  # parameters kept, factors included
    stored_bytes: int  # weight only, without bias
    dense_bytes: int
    note: str = ""
    values: ValuesName = "float"
    kernel: str = ""  # what would multiply by it on this machine, where that was asked
    error: float | None = None  # that is to be expected, as LayerReport.error; None: not known


class Memory(Record):
    """Peak of resident memory beyond an interpreter that has only imported the libraries, in bytes.

    First what runs before the blocks is loaded and read once; then the blocks are compressed, one at a time.
    """

    fixed: int  # tokenizer, model code, scratch of the numerical libraries
    outside: int  # embeddings and output head, while the model reads the calibration text
    hidden_states: int
    block: int  # weights of one block, dense and compressed
    statistics: int
    workspace: int  # activations of one batch, or the method's matrices, or one block that learns
    healing: int = 0  # the whole model, learning
    embeddings: int = 0  # of `outside` what runs before the blocks

    @property
    def total(self) -> int:
        blocks = self.block + self.statistics + self.workspace
        return self.fixed + max(self.outside, self.hidden_states + max(blocks, self.healing))

    @property
    def parts(self) -> dict[str, int]:
        """What `total` is reckoned from, by name; healing only where it is asked for."""
        each = self.model_dump(exclude={"embeddings"})
        return {name: count for name, count in each.items() if count or name != "healing"}

    @property
    def on_device(self) -> int:
        """What of it is a CUDA device's, where there is one; hidden states stay with the host."""
        reading = self.embeddings + self.block // 2 + self.workspace  # up to the first block
        return max(reading, self.block + self.statistics + self.workspace, self.healing)


class Duration(Record):
    """Predicted seconds of a compression on this machine."""

    sensitivity: float  # of the pass that the allocation rule needs first; 0 where there is none
    blocks: float

    @property
    def total(self) -> float:
        return self.sensitivity + self.blocks


class Plan(Record):
    """A table of decisions, made from the model's config and what earlier runs learnt of it."""

    _old_names = model_validator(mode="before")(rename_fields)

    source: ModelSource
    method: str
    sparsity: float
    allocation: str
    dtype: str
    compute_dtype: str = ""  # of products of many tokens
    device: str
    sites: list[SitePlan]
    left_alone: list[LeftAlone]
    model_parameters: int  # tied weights once
    kept_parameters: int  # of the whole model, what is left alone included
    stored_bytes: int  # all safetensors files, headers included
    resident_bytes: int  # all tensors after load
    dense_stored_bytes: int  # the same model, uncompressed, in the same dtype
    memory: Memory
    disk_bytes: int  # needed in the target's file system while working
    duration: Duration | None = None  # None: not known for this device
    dropped: list[str] = []  # parts of the config that the causal language model has not: vision_config
    untied: bool = False  # config.json ties embeddings and head, but the files hold two that differ
    notes: list[str] = []  # what is not as it was asked, or not known

    @property
    def layer_stored_bytes(self) -> int:
        return sum(p.stored_bytes for p in self.sites)

    @property
    def mean_error(self) -> float | None:
        """That is to be expected of a layer; None unless it is known of all."""
        errors = [p.error for p in self.sites if p.error is not None]
        return sum(errors) / len(errors) if len(errors) == len(self.sites) else None

    @property
    def layer_dense_bytes(self) -> int:
        return sum(p.dense_bytes for p in self.sites)


class LayerReport(Record):
    """What came of one site."""

    name: str
    block: int
    rows: int
    columns: int
    form: FormName
    kept: int
    rank: int
    stored_bytes: int
    dense_bytes: int
    values: ValuesName = "float"
    error: float = Field(
        description="||(W - W')X||_F / ||WX||_F on a sample of calibration tokens, before blocks or the model learn; "
        "W: the weight, corrected for the layers before where the method does that"
    )

    @property
    def sparsity(self) -> float:
        return 1 - self.kept / (self.rows * self.columns)


class SiteStats(Record):
    """The inputs of one site over the calibration tokens of the uncompressed model."""

    name: str
    block: int
    columns: int  # features
    tokens: int  # that reached the site
    mean: float  # of |x| over tokens and features
    max: float  # of |x|
    norm: float  # mean over features of ||X_j||_2
    outlier_share: float  # of features whose norm exceeds five times that mean
    dead: int  # features that are always zero


class StatsReport(Record):
    """Statistics of every site, in the order of the blocks."""

    model_id: str
    calibration: str
    samples: int
    length: int
    sites: list[SiteStats]


class CompressionReport(Record):
    """The totals of one finished compression; all sizes counted from the artifact."""

    save_path: Path
    model_id: str
    method: str
    sparsity: float  # as asked
    layers: list[LayerReport]
    model_parameters: int
    kept_parameters: int
    stored_bytes: int
    dense_stored_bytes: int
    seconds: float  # work of all sessions, resumed ones included
    peak_memory_bytes: int  # VmHWM of this process
    calibration: str
    device: str
    dtype: str

    @property
    def layer_stored_bytes(self) -> int:
        return sum(layer.stored_bytes for layer in self.layers)

    @property
    def layer_dense_bytes(self) -> int:
        return sum(layer.dense_bytes for layer in self.layers)


class SiteSpectrum(Record):
    """Singular values of one matrix before and after its compression, at `ranks`, which count from 1.

    An energy is a squared Frobenius norm; a cumulated one is the share in the first values, at the same ranks.
    """

    name: str
    block: int
    rows: int
    columns: int
    rank: int  # of the factors; 0: none
    ranks: list[int]
    before: list[float]
    after: list[float]
    energy_before: list[float]
    energy_after: list[float]
    effective_rank_before: float  # exp of the entropy of the values' shares
    effective_rank_after: float
    weight_energy: float  # ||W||^2
    sparse_energy: float  # ||S||^2
    factors_energy: float  # ||L||^2
    kept_energy: float  # ||S + L||^2
    lost_energy: float  # ||W - (S + L)||^2
