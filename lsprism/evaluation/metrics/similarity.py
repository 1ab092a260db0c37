"""Semantic similarity: cosine of the sentence embeddings of two texts."""

from datasets import Features, Value

from lsprism.evaluation.encoders import EMBEDDED, load_sentence_encoder
from lsprism.evaluation.metrics.metric_base import MetricInMemory, find_empty_pairs, make_score
from lsprism.records.evaluation import Score


class Similarity(MetricInMemory):
    """similarity: cosine in [-1, 1]. SourceError, when computed, if the encoder is missing."""

    about = "Cosine of sentence embeddings."
    inputs = Features({"predictions": Value("string"), "references": Value("string")})

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device

    def _compute(self, predictions: list[str], references: list[str], **_: object) -> dict[str, Score]:
        judge = load_sentence_encoder(self.device)
        empty, notes = find_empty_pairs(predictions, references)
        # [pairs, 384], unit length
        ours, theirs = (
            judge.encode(texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False).double()
            for texts in (predictions, references)
        )
        cosines = (ours * theirs).sum(-1).tolist() if predictions else []
        values = [0.0 if n in empty else cosine for n, cosine in enumerate(cosines)]
        protocol = (
            f"Cosine similarity of the sentence embeddings of each pair, from {EMBEDDED}, mean-pooled, "
            f"the first {judge.max_seq_length} word pieces; mean over the pairs."
        )
        return {"similarity": make_score("similarity", protocol, values, notes)}
