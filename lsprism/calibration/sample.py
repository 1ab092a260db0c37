"""The token windows of a calibration, from the configured text."""

from torch import Tensor

from lsprism.calibration.corpus import Corpus, cut_windows, prepare_tokens, read_text, resolve_source
from lsprism.calibration.self_generated import generate_windows
from lsprism.models.checks import load_config
from lsprism.models.load import load, load_tokenizer
from lsprism.models.tokens import check_rows, find_start_tokens
from lsprism.packed.compute_dtype import use_compute_dtype
from lsprism.records.model_plan import ModelSource
from lsprism.specs import PlanSpec


def sample_windows(spec: PlanSpec, source: ModelSource, corpus: Corpus | None = None) -> tuple[Tensor, str, str]:
    """Return windows [samples, length], the name of their text, and a notice about the choice of text, or "".

    `corpus`: the text, if it has already been read.
    """
    asked = spec.calibration
    notice = ""
    wanted = resolve_source(asked, source)
    if asked.source == "auto" and source.kind == "demo":
        notice = "Calibrating the demo model on the embedded text; choose another with --calibration."
    if wanted == "self":
        loaded = load(source, spec.device, spec.dtype)
        before = find_start_tokens(loaded.tokenizer) if asked.bos == "each" else []
        with use_compute_dtype(spec.compute_dtype):
            own = generate_windows(loaded.model, asked, loaded.tokenizer.all_special_ids, before)
        return own, "self-generated text", ""
    corpus = corpus or read_text(wanted, asked.column)
    tokenizer = load_tokenizer(source)
    tokens, start = prepare_tokens(tokenizer, corpus.text, asked.bos)
    cut = cut_windows(tokens, asked.samples, asked.length, asked.seed, start)
    config = load_config(source.folder)
    check_rows(config.get_text_config().vocab_size, cut, tokenizer)
    return cut, corpus.name, notice
