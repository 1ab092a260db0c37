"""ROUGE-1, ROUGE-2, ROUGE-L (Lin: ROUGE: A Package for Automatic Evaluation of Summaries, 2004): overlap of words, of
word pairs, and longest common subsequence of two texts."""

from datasets import Features, Value

from lsprism.evaluation.metrics.metric_base import MetricInMemory, find_empty_pairs, make_score
from lsprism.evaluation.word_split import split_words
from lsprism.records.evaluation import Score

LEAST = {"rouge1": 1, "rouge2": 2, "rougeL": 1}  # words that at least one text must have for a defined score


class WordTokenizer:
    """Tokenizer for rouge-score, whose own one supports only ASCII and gives the same result there."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


class Rouge(MetricInMemory):
    """rouge1, rouge2, rougeL: F-measure, computed with rouge-score."""

    about = "Overlap of words, of word pairs, and longest common subsequence."
    inputs = Features({"predictions": Value("string"), "references": Value("string")})

    def _compute(self, predictions: list[str], references: list[str], **_: object) -> dict[str, Score]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(LEAST), tokenizer=WordTokenizer())
        pairs = list(zip(predictions, references, strict=True))
        found = [scorer.score(target=reference, prediction=prediction) for prediction, reference in pairs]
        longer = [max(len(split_words(text)) for text in pair) for pair in pairs]
        empty, notes = find_empty_pairs(predictions, references)
        scores = {}
        for name, least in LEAST.items():
            undefined = {n for n, count in enumerate(longer) if count < least} - empty
            values = [None if n in undefined else score[name].fmeasure for n, score in enumerate(found)]
            scores[name] = make_score(
                name, _format_protocol(name), values, [*notes, *_format_note(undefined, len(pairs), least)]
            )
        return scores


def _format_protocol(name: str) -> str:
    return (
        f"ROUGE-{name.removeprefix('rouge')} F-measure of each pair with rouge-score, lower-case words of any script "
        "(single characters where a script has no spaces), no stemming; mean over the pairs."
    )


def _format_note(undefined: set[int], pairs: int, least: int) -> list[str]:
    words = "no word" if least == 1 else f"fewer than {least} words"
    return [f"{len(undefined)} of {pairs} pairs were left out: {words} in either text."] if undefined else []
