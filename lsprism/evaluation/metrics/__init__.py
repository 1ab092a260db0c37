"""How close two sets of texts are: metrics of our own for `evaluate.combine`, which need no hub and write no file."""

from evaluate import CombinedEvaluations, combine

from lsprism.evaluation.judge import EMBEDDED, JudgeName
from lsprism.evaluation.metrics.agreement import TokenAgreement
from lsprism.evaluation.metrics.bertscore import BertScore
from lsprism.evaluation.metrics.rouge import Rouge
from lsprism.evaluation.metrics.similarity import Similarity


def text_metrics(judge: JudgeName = EMBEDDED, device: str = "cpu") -> CombinedEvaluations:
    """compute(predictions=[text], references=[text]) gives bertscore_f1, rouge1, rouge2, rougeL, similarity: Score."""
    return combine([BertScore(judge, device), Rouge(), Similarity(device)])


def answer_metrics(judge: JudgeName = EMBEDDED, device: str = "cpu") -> CombinedEvaluations:
    """The same and token_agreement, first_divergence; compute also takes prediction_tokens and reference_tokens."""
    return combine([*text_metrics(judge, device).evaluation_modules, TokenAgreement()])
