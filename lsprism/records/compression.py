"""Results of compressions and measurements. Sizes are in bytes; names of seconds end in `_s` or `seconds`."""

from pathlib import Path

from pydantic import Field

from lsprism.records.model_plan import FormName, Record, ValuesName


class LayerReport(Record):
    """The result for one layer."""

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
        description="||(W - W')X||_F / ||WX||_F on a sample of calibration tokens, before reconstruction and "
        "distillation; W: the weight, with error compensation for the layers before it if the method uses that"
    )

    @property
    def sparsity(self) -> float:
        return 1 - self.kept / (self.rows * self.columns)


class LayerInputStats(Record):
    """Statistics of the inputs of one layer over the calibration tokens of the uncompressed model."""

    name: str
    block: int
    columns: int  # features
    tokens: int  # number of tokens that reached the layer
    mean: float  # of |x| over tokens and features
    max: float  # of |x|
    norm: float  # mean over features of ||X_j||_2
    outlier_share: float  # fraction of features whose norm exceeds five times that mean
    dead: int  # number of features that are always zero


class StatsReport(Record):
    """Statistics of every layer, in block order."""

    model_id: str
    calibration: str
    samples: int
    length: int
    sites: list[LayerInputStats]


class CompressionReport(Record):
    """The result of one finished compression; all sizes are counted from the artifact."""

    save_path: Path
    model_id: str
    method: str
    sparsity: float  # as requested
    layers: list[LayerReport]
    model_parameters: int
    kept_parameters: int
    stored_bytes: int
    dense_stored_bytes: int
    seconds: float  # working time, including earlier sessions of a resumed run
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


class LayerSpectrum(Record):
    """Singular values of one layer before and after compression, at `ranks`, which count from 1.

    An energy is a squared Frobenius norm; `energy_before` and `energy_after` are cumulative, as fractions of the total.
    """

    name: str
    block: int
    rows: int
    columns: int
    rank: int  # rank of the low-rank factors; 0: none
    ranks: list[int]
    before: list[float]
    after: list[float]
    energy_before: list[float]
    energy_after: list[float]
    effective_rank_before: float  # exp of the entropy of the normalized singular values
    effective_rank_after: float
    weight_energy: float  # ||W||^2
    sparse_energy: float  # ||S||^2
    factors_energy: float  # ||L||^2
    kept_energy: float  # ||S + L||^2
    lost_energy: float  # ||W - (S + L)||^2
