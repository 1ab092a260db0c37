"""Estimates the peak memory of a compression in bytes, on top of an interpreter that only imported the libraries."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from lsprism.allocation import RULES
from lsprism.calibration.blockwise import BATCH_TOKENS, LEARNING_TOKENS
from lsprism.calibration.corpus import is_file_name
from lsprism.calibration.hub_text import MOST_CHARACTERS
from lsprism.errors import WorkError
from lsprism.methods import METHODS
from lsprism.models.structure import ModelStructure
from lsprism.models.tokens import embedding_of
from lsprism.packed.kernels.tiles import TILE_BYTES
from lsprism.paths import expand
from lsprism.records.model_plan import Layer, MemoryEstimate
from lsprism.specs import PlanSpec


def estimate(
    spec: PlanSpec, model: PreTrainedModel, anatomy: ModelStructure, outside: list[int], compute: torch.dtype
) -> MemoryEstimate:
    """Estimate the peak by component. `outside`: bytes of the files outside the blocks.

    Checked against the peak of real runs, see tests/bench.
    """
    config = model.config.get_text_config()
    size = model.dtype.itemsize
    tokens = spec.calibration.samples * spec.calibration.length
    batch = min(tokens, max(BATCH_TOKENS, spec.calibration.length))
    sites = anatomy.get_block_layers(0)
    largest = max(site.parameters for site in sites)
    widest = max(site.columns for site in sites)
    activations = 3 * batch * max(max(site.rows, site.columns) for site in sites) * size
    if METHODS[spec.method].anchor > 0:  # inputs in the compressed and the dense model, each also as float32
        activations = max(activations, batch * widest * 2 * (size + 4))
    if compute.itemsize > size:  # one layer's input and output and a tile of its weight, in the compute dtype
        activations += batch * max(site.rows + site.columns for site in sites) * compute.itemsize + TILE_BYTES
    gram = METHODS[spec.method].needs_gram
    of_gram, of_weight = BEST_WORKSPACE if spec.effort == "best" else GRAM_WORKSPACE
    matrices = of_gram * widest**2 + of_weight * largest if gram else 12 * largest
    anchors = METHODS[spec.method].anchor > 0
    beside = anchors or spec.reconstructs or spec.heals  # the dense model runs alongside
    of_block = 4 * sum({site.columns**2 for site in sites})  # the Gram matrices of a block
    of_stats = 0
    if gram:
        of_stats = 8 * widest**2 if anchors else of_block
    copies = 2 if beside else 1  # of the hidden states
    if anchors:
        copies = 4
    look = RULES[spec.rule].by
    of_look = of_block if look and METHODS[look(spec)].needs_gram else 0
    return MemoryEstimate(
        fixed=FIXED + TOKENIZER_ENTRY * config.vocab_size + _estimate_text(spec, model),
        outside=sum(outside),
        hidden_states=copies * tokens * config.hidden_size * size,
        block=(3 if beside else 2) * sum(site.parameters for site in sites) * size,
        statistics=max(of_stats, of_look),
        workspace=max(activations, matrices, _estimate_reconstruction(spec, sites, size) if spec.reconstructs else 0),
        healing=_estimate_healing(spec, model, anatomy) if spec.heals else 0,
        embeddings=embedding_of(model).numel() * size,
    )


def _estimate_reconstruction(spec: PlanSpec, sites: list[Layer], size: int) -> int:
    """Bytes to train one block: its values, and the activations of a batch for the backward pass."""
    batch = max(LEARNING_TOKENS, spec.calibration.length)
    return LEARNT * sum(s.parameters for s in sites) + 4 * batch * size * sum(s.rows + s.columns for s in sites)


def _estimate_healing(spec: PlanSpec, model: PreTrainedModel, anatomy: ModelStructure) -> int:
    """Bytes of distillation: the whole model, all layers in training, all block inputs and one window's logits."""
    config = model.config.get_text_config()
    length = spec.calibration.length
    size = model.dtype.itemsize
    logits = 6 * 4 * length * config.vocab_size
    lesson = _estimate_reconstruction(spec, anatomy.get_block_layers(0), size)
    inputs = anatomy.count * length * config.hidden_size * size
    learnt = LEARNT * sum(s.parameters for s in anatomy.sites)
    return sum(p.numel() for p in model.parameters()) * size + learnt + logits + lesson + inputs


def _estimate_text(spec: PlanSpec, model: PreTrainedModel) -> int:
    """Bytes to read and tokenize the calibration text. Self-generated text needs the whole model."""
    source = spec.calibration.source
    path = expand(source)
    if source == "self":
        return sum(p.numel() for p in model.parameters()) * model.dtype.itemsize
    if source == "embedded" or (source == "auto" and spec.model_id == "demo"):
        return 0
    if is_file_name(source):
        size = os.path.getsize(path) if os.path.isfile(path) else 0
        return ARROW + TEXT_CHARACTER * 3 * size if path.suffix.lower() == ".parquet" else TEXT_CHARACTER * size
    return ARROW + TEXT_CHARACTER * (WIKITEXT2 if source in ("auto", "wikitext2") else MOST_CHARACTERS)


TEXT_CHARACTER = 40  # bytes per character during tokenization
WIKITEXT2 = 10_900_000  # characters of the train split
ARROW = 45_000_000  # bytes of pyarrow, which reads parquet
FIXED = 140_000_000  # bytes of every run, including freed tensors that the heap still holds
TOKENIZER_ENTRY = 600  # bytes per vocabulary entry of a tokenizer
LEARNT = 21  # bytes per trainable weight: value, gradient, two Adam moments, best value so far, and mask
# Workspace of a method that uses the Gram matrix: bytes per entry of the largest Gram matrix (with the inverse of its
# Cholesky factor), and bytes per entry of the weight.
GRAM_WORKSPACE = 9, 16
BEST_WORKSPACE = 17, 44


def limit_heap() -> None:
    """Make glibc keep freed blocks of up to 32 MB for later tensors, until `trim_heap`.

    New memory from the system is cleared page by page; with the defaults that took a third of a run on the demo model.
    Without `trim_heap`, fragmentation doubled the memory at the end of a run, and several arenas made it worse. Does
    nothing on systems without glibc.
    """
    if _GLIBC:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**26)


def trim_heap() -> None:
    """Return free memory to the system. Takes a few milliseconds."""
    if _GLIBC:
        ctypes.CDLL(None).malloc_trim(0)


_GLIBC = platform.libc_ver()[0] == "glibc"
# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


@contextmanager
def translate_memory_errors() -> Iterator[None]:
    """Turn out-of-memory errors of the device or the host into a WorkError with a next step."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own OutOfMemoryError is a RuntimeError
        told = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not told:
            raise
        raise WorkError(
            "Out of memory.",
            "Close other programs and continue with --resume, or start over with --force and fewer --samples.",
        ) from None
