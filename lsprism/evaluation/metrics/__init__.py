"""Text similarity metrics for `evaluate.combine` that need no Hub access and write no files."""

from evaluate import CombinedEvaluations, combine

from lsprism.evaluation.encoders import EMBEDDED, JudgeName
from lsprism.evaluation.metrics.bertscore import BertScore
from lsprism.evaluation.metrics.rouge import Rouge
from lsprism.evaluation.metrics.similarity import Similarity
from lsprism.evaluation.metrics.token_agreement import TokenAgreement


def load_text_metrics(judge: JudgeName = EMBEDDED, device: str = "cpu") -> CombinedEvaluations:
    """compute(predictions=[text], references=[text]) returns bertscore_f1, rouge1, rouge2, rougeL and similarity."""
    return combine([BertScore(judge, device), Rouge(), Similarity(device)])


def load_answer_metrics(judge: JudgeName = EMBEDDED, device: str = "cpu") -> CombinedEvaluations:
    """As `load_text_metrics`, plus token_agreement and first_divergence, from prediction_tokens and
    reference_tokens."""
    return combine([*load_text_metrics(judge, device).evaluation_modules, TokenAgreement()])
