"""Text metrics: a text scores 1 against itself and an empty one 0; neither Hub nor disk is used."""

import logging
import socket

import bert_score
import evaluate
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from lsprism.evaluation.encoders import find_embedded_folder, load_sentence_encoder
from lsprism.evaluation.metrics import (
    BertScore,
    Rouge,
    Similarity,
    TokenAgreement,
    load_answer_metrics,
    load_text_metrics,
)
from lsprism.evaluation.metrics import similarity as similarity_room
from lsprism.evaluation.metrics.metric_base import make_score
from lsprism.evaluation.metrics.token_agreement import compute_agreement, find_divergence

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [
    "The river runs under the old stone bridge.",
    "Two plus two is four; everyone agrees.",
    "Die Brücke wurde 1624 für Ochsenkarren gebaut.",
    "В холодном озере живёт маленький рак.",
    "水が 静かに 流れる",
]
OTHERS = [
    "An ancient bridge of stone crosses the river.",
    "The cat sleeps on the warm stove.",
    "Die Katze schläft auf dem Ofen.",
    "Кошка спит на печи.",
    "猫は 暖炉の上で 眠る",
]
TOKENS = [[n, n + 1, 2] for n in range(len(TEXTS))]


def compare(metric, predictions, references):
    return metric.compute(predictions=predictions, references=references)


def test_baseline_against_itself_is_one_in_each():
    scores = load_answer_metrics().compute(
        predictions=TEXTS, references=list(TEXTS), prediction_tokens=TOKENS, reference_tokens=list(TOKENS)
    )
    parts = scores.pop("first_divergence")
    assert set(scores) == {"bertscore_f1", "rouge1", "rouge2", "rougeL", "similarity", "token_agreement"}
    for score in scores.values():
        assert score.values == pytest.approx([1.0] * len(TEXTS), abs=1e-5), score.metric
        assert score.mean == pytest.approx(1.0, abs=1e-5)
        assert score.notes == []
        assert score.protocol.endswith("mean over the pairs.")
    assert parts.values == [None] * len(TEXTS) and parts.mean is None


def test_equal_texts_are_computed_like_others(monkeypatch):
    monkeypatch.setattr("bert_score.utils.bert_cos_score_idf", lambda *_, **__: torch.full((5, 3), 0.25))
    assert compare(BertScore(), TEXTS, TEXTS)["bertscore_f1"].values == [0.25] * 5

    class Forgetful:
        max_seq_length = 256
        encode = staticmethod(lambda texts, **_: torch.nn.functional.normalize(torch.randn(len(texts), 384)))

    monkeypatch.setattr(similarity_room, "load_sentence_encoder", lambda device: Forgetful)
    assert max(compare(Similarity(), TEXTS, TEXTS)["similarity"].values) < 0.9


def test_related_texts_are_closer_than_unrelated_ones():
    related, unrelated = (compare(load_text_metrics(), TEXTS[:1], other) for other in (OTHERS[:1], OTHERS[1:2]))
    assert related["bertscore_f1"].mean > unrelated["bertscore_f1"].mean + 0.1
    assert related["similarity"].mean > 0.6 > 0.3 > unrelated["similarity"].mean


def test_bertscore_equals_bert_score_with_the_same_encoder():
    *_, wanted = bert_score.score(TEXTS, OTHERS, model_type=str(find_embedded_folder()), num_layers=6, device="cpu")
    found = compare(BertScore(), TEXTS, OTHERS)["bertscore_f1"]
    assert found.values == pytest.approx(wanted.tolist(), abs=1e-5)
    assert "all-MiniLM-L6-v2, layer 6" in found.protocol


def test_similarity_is_the_cosine_of_the_embeddings():
    ours, theirs = (torch.tensor(load_sentence_encoder("cpu").encode(texts)) for texts in (TEXTS, OTHERS))
    wanted = torch.nn.functional.cosine_similarity(ours, theirs).tolist()
    assert compare(Similarity(), TEXTS, OTHERS)["similarity"].values == pytest.approx(wanted, abs=1e-5)


def test_rouge_equals_rouge_score_on_ascii():
    ours, theirs = "The old_bridge, 2 of 3: a BRIDGE of stone!", "a stone bridge, the OLD 3 of 2"
    found = compare(Rouge(), [ours], [theirs])
    wanted = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(target=theirs, prediction=ours)
    assert {name: score.mean for name, score in found.items()} == {name: s.fmeasure for name, s in wanted.items()}


def test_an_empty_text_scores_zero_with_a_note(capfd):
    ours, theirs = ["", "words", "", "river"], ["words", " \n", "", "river"]
    for name, score in compare(load_text_metrics(), ours, theirs).items():
        assert score.values == pytest.approx([0, 0, 0, None if name == "rouge2" else 1], abs=1e-5)
        assert score.notes[0] == "3 of 4 pairs have an empty text and score 0."
    assert capfd.readouterr().err == ""


def test_a_text_without_word_pieces_is_empty_for_bertscore(capfd):
    assert compare(BertScore(), ["\u200b"], ["words"])["bertscore_f1"].values == [0.0]
    assert capfd.readouterr().err == ""


def test_only_empty_texts_or_no_pairs_do_not_fail():
    assert {score.mean for score in compare(load_text_metrics(), ["", ""], ["", ""]).values()} == {0.0}
    assert {score.mean for score in compare(load_text_metrics(), [], []).values()} == {None}


def test_rouge2_of_single_words_is_undefined_instead_of_zero():
    found = compare(Rouge(), ["42", "the river", "river"], ["42", "the river", "the river"])
    assert found["rouge2"].values == [None, 1.0, 0.0]
    assert found["rouge2"].mean == 0.5
    assert found["rouge2"].notes == ["1 of 3 pairs were left out: fewer than 2 words in either text."]
    assert found["rouge1"].values[0] == 1.0 and found["rouge1"].notes == []


@pytest.mark.parametrize(
    ("ours", "theirs", "share", "parts"),
    [
        ([5, 6, 7], [5, 6, 7], 1.0, None),
        ([5, 6, 7], [5, 9, 7], 2 / 3, 1),
        ([5, 6], [5, 6, 7, 8], 0.5, 2),
        ([1, 2, 3], [2, 3, 1], 0.0, 0),
        ([], [4], 0.0, 0),
        ([], [], 0.0, None),
    ],
)
def test_token_agreement_and_first_divergence(ours, theirs, share, parts):
    assert compute_agreement(ours, theirs) == compute_agreement(theirs, ours) == share
    assert find_divergence(ours, theirs) == find_divergence(theirs, ours) == parts
    found = TokenAgreement().compute(prediction_tokens=[ours], reference_tokens=[theirs])
    assert (found["token_agreement"].values, found["first_divergence"].values) == ([share], [parts])
    assert bool(found["token_agreement"].notes) is not (ours and theirs and True)


def test_neither_hub_nor_disk_is_used(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.module.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    combined = evaluate.combine({"words": Rouge(), "meaning": Similarity(), "judge": BertScore()})
    for ours, theirs in zip(TEXTS, OTHERS, strict=True):
        combined.add(prediction=ours, reference=theirs)
    one_by_one = combined.compute()
    assert one_by_one == combined.compute(predictions=TEXTS, references=OTHERS)
    assert not (tmp_path / "metrics").exists()


def test_the_mean_is_over_defined_values():
    score = make_score("m", "p", [1.0, None, 0.5])
    assert (score.values, score.mean) == ([1.0, None, 0.5], 0.75)
    assert make_score("m", "p", [None]).mean is None


def test_texts_longer_than_the_encoder_limit_give_no_warning(caplog, capfd):
    long = ["word " * 600]
    with caplog.at_level(logging.WARNING):
        bertscore, similarity = compare(BertScore(), long, long), compare(Similarity(), long, long)
    assert bertscore["bertscore_f1"].mean == pytest.approx(1.0, abs=1e-5)
    assert similarity["similarity"].mean == pytest.approx(1.0, abs=1e-5)
    assert not caplog.records and capfd.readouterr().err == ""
