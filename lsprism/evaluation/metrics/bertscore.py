"""BERTScore (Zhang et al.: BERTScore: Evaluating Text Generation with BERT, 2020): each word piece of one text is
matched with the most similar one of the other, by the cosine of their contextual embeddings."""

from collections import defaultdict

from datasets import Features, Value

from lsprism.evaluation.encoders import EMBEDDED, BertScoreEncoder, JudgeName, load_bertscore_encoder
from lsprism.evaluation.metrics.metric_base import MetricInMemory, find_empty_pairs, make_score
from lsprism.records.evaluation import Score


class BertScore(MetricInMemory):
    """bertscore_f1: without idf weights and rescaling. SourceError, when computed, if the encoder is missing."""

    about = "F1 of the similarity between the words of both texts."
    inputs = Features({"predictions": Value("string"), "references": Value("string")})

    def __init__(self, judge: JudgeName = EMBEDDED, device: str = "cpu") -> None:
        super().__init__()
        self.judge, self.device = judge, device

    def _compute(self, predictions: list[str], references: list[str], **_: object) -> dict[str, Score]:
        judge = load_bertscore_encoder(self.judge, self.device)
        # Pairs without word pieces are left out: bert-score cannot encode an empty text with a tokenizer of
        # transformers 5, and prints a warning for texts without word pieces.
        empty, notes = find_empty_pairs(predictions, references, judge.encode_pieces)
        read = [n for n in range(len(predictions)) if n not in empty]
        values = [0.0] * len(predictions)
        for n, value in zip(read, _compute_f1(judge, predictions, references, read, self.device), strict=True):
            values[n] = value
        protocol = (
            f"BERTScore F1 of each pair, embeddings from {judge.name}, layer {judge.layer}, the first "
            f"{judge.tokenizer.model_max_length} word pieces, no idf, not rescaled; mean over the pairs."
        )
        return {"bertscore_f1": make_score("bertscore_f1", protocol, values, notes)}


def _compute_f1(
    judge: BertScoreEncoder, predictions: list[str], references: list[str], read: list[int], device: str
) -> list[float]:
    """F1 of the pairs `read`, as bert_score.score computes it, with the encoder in memory."""
    from bert_score.utils import bert_cos_score_idf

    if not read:
        return []
    weights: defaultdict[int, float] = defaultdict(lambda: 1.0)
    weights[judge.tokenizer.sep_token_id] = weights[judge.tokenizer.cls_token_id] = 0.0
    precision_recall_f1 = bert_cos_score_idf(
        judge.encoder, [references[n] for n in read], [predictions[n] for n in read], judge.tokenizer, weights,
        device=device,
    )  # fmt: skip
    return precision_recall_f1[:, 2].tolist()
