"""Every input of a model starts with the tokens that its tokenizer adds before a text, for all metrics."""

import json

import pytest
import torch
from odd_tokenizers import BOS, make_begun, wrapping

from lsprism import api, evaluation_api
from lsprism.artifact.manifest import read_recipe
from lsprism.calibration.corpus import cut_windows, prepare_tokens
from lsprism.calibration.self_generated import generate_windows
from lsprism.cli.options import Parser, add_options, collect_options, list_options
from lsprism.engine.blocks import BlockLoader
from lsprism.errors import TargetError
from lsprism.evaluation import agreement, perplexity, speed, word_perplexity
from lsprism.evaluation.progress import run_to_end
from lsprism.evaluation.windows import Corpus, make_windows
from lsprism.events import BlockDone
from lsprism.generation.prompt import encode
from lsprism.models.load import load
from lsprism.models.source import resolve
from lsprism.models.tokens import find_start_tokens
from lsprism.specs import CalibrationSpec, CompressSpec, GenerateSpec, SweepSpec, validate

pytestmark = pytest.mark.usefixtures("one_thread")

CONTEXT = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_begun(tmp_path_factory.mktemp("bos") / "tiny", dtype=torch.float32)


@pytest.fixture(scope="module")
def loaded(folder):
    return load(resolve(str(folder)), "cpu")


@pytest.fixture(scope="module")
def corpus(text_file):
    return Corpus("words", text_file.read_text()[:500])


@pytest.fixture
def read(loaded):
    """Records the token ids of every input that the model reads from the start."""
    seen = []

    def note(module, args, kwargs) -> None:
        if kwargs.get("past_key_values") is None or not kwargs["past_key_values"].get_seq_length():
            seen.extend(kwargs["input_ids"].tolist())

    hooks = [part.register_forward_pre_hook(note, with_kwargs=True) for part in (loaded.model, loaded.model.model)]
    yield seen
    for hook in hooks:
        hook.remove()


def begin_once(texts) -> bool:
    return bool(texts) and all(text[0] == BOS and text.count(BOS) == 1 for text in texts)


@pytest.mark.parametrize(
    ("single", "start"),
    [("<s> $A", [BOS]), ("$A </s>", []), ("<s> $A </s>", [BOS]), ("<s> a $A", [BOS, 3]), ("$A", [])],
)
def test_the_tokens_before_a_text_are_found(single, start):
    assert find_start_tokens(wrapping(single)) == start


def test_every_calibration_window_starts_with_bos(loaded, corpus):
    tokens, start = prepare_tokens(loaded.tokenizer, corpus.text, "each")
    cut = cut_windows(tokens, 20, CONTEXT, 0, start)
    assert cut.shape == (20, CONTEXT) and begin_once(cut.tolist())
    plain, nothing = prepare_tokens(loaded.tokenizer, corpus.text, "first")
    assert plain.tolist() == loaded.tokenizer(corpus.text)["input_ids"] and not len(nothing)


def test_windows_are_consecutive(loaded, corpus):
    cut = make_windows(loaded.tokenizer, corpus, CONTEXT)
    ids = loaded.tokenizer(corpus.text, add_special_tokens=False)["input_ids"]
    assert cut.tokens[:, 1:].flatten().tolist() == ids[: cut.tokens[:, 1:].numel()]
    assert begin_once(cut.tokens.tolist()) and cut.bos and cut.predicted == len(cut.tokens) * (CONTEXT - 1)


def test_two_start_tokens_are_not_predicted(loaded, corpus):
    cut = make_windows(wrapping("<s> a $A"), corpus, CONTEXT)
    assert cut.tokens[:, :2].tolist() == [[BOS, 3]] * len(cut.tokens)
    assert cut.predicted == len(cut.tokens) * (CONTEXT - 2)
    figure = perplexity.compute_perplexity(loaded.model, cut)
    with torch.no_grad():
        logits = loaded.model(cut.tokens).logits[:, 1:-1].log_softmax(-1)
    wanted = -logits.gather(2, cut.tokens[:, 2:, None]).double().mean()
    assert figure.nll == pytest.approx(wanted.item(), rel=1e-5) and figure.tokens == cut.predicted


def test_a_text_that_contains_bos_does_not_get_another_one(loaded, corpus):
    assert begin_once(make_windows(loaded.tokenizer, Corpus("with BOS", f"<s> {corpus.text}"), CONTEXT).tokens.tolist())


def test_perplexity_and_agreement_read_bos_in_every_window_and_say_so(loaded, corpus, read):
    cut = make_windows(loaded.tokenizer, corpus, CONTEXT)
    likelihood = perplexity.compute_perplexity(loaded.model, cut)
    divergence = run_to_end(agreement.stream_agreement(loaded, loaded, cut))
    assert begin_once(read) and divergence.kl == 0
    for figure in (likelihood, divergence):
        assert (figure.bos, figure.begins) == (True, "each")
        assert "tokenized once with BOS before each window" in figure.format_protocol()


def test_bos_first_is_the_convention_of_papers(loaded, corpus):
    cut = make_windows(loaded.tokenizer, corpus, CONTEXT, "first")
    assert [row.count(BOS) for row in cut.tokens.tolist()] == [1] + [0] * (len(cut.tokens) - 1)
    figure = perplexity.compute_perplexity(loaded.model, cut)
    assert (figure.begins, figure.tokens) == ("first", len(cut.tokens) * (CONTEXT - 1))
    assert "with BOS before the first window" in figure.format_protocol()


def test_word_perplexity_reads_bos_in_every_window_and_says_so(loaded, corpus, read):
    documents = word_perplexity.split_documents(corpus)
    figure = run_to_end(word_perplexity.stream_word_perplexity(loaded, documents, CONTEXT))
    assert begin_once(read) and len(read) > 2
    assert "BOS before each" in figure.format_protocol()
    read.clear()
    figure = run_to_end(word_perplexity.stream_word_perplexity(loaded, documents, CONTEXT, "first"))
    assert not begin_once(read) and "BOS before the first" in figure.format_protocol()


def test_timed_prompts_and_chat_start_with_bos(loaded, corpus, read):
    tokens = torch.cat(prepare_tokens(loaded.tokenizer, corpus.text, "each")[::-1])
    run_to_end(speed.stream_speed([loaded], tokens, speed.SpeedSettings((8,), 2, 3)))
    assert begin_once(read)
    read.clear()
    list(api.stream_generate(loaded, "a river", GenerateSpec(max_new_tokens=2, greedy=True)))
    assert read and begin_once(read)
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "the"},
        {"role": "user", "content": "one"},
    ]
    assert begin_once(encode(loaded.tokenizer, talk).tolist())


def test_self_generated_text_starts_with_bos(loaded):
    texts = generate_windows(loaded.model, CalibrationSpec(samples=4, length=12), [0, BOS, 2], [BOS])
    assert texts.shape == (4, 12) and begin_once(texts.tolist())


def test_a_compression_reads_bos_in_every_window_and_its_recipe_says_so(folder, text_file, tmp_path, monkeypatch):
    seen, real = [], BlockLoader.start
    monkeypatch.setattr(
        BlockLoader, "start", lambda self, tokens, *more: seen.append(tokens) or real(self, tokens, *more)
    )
    for bos in ("each", "first"):
        calibration = {"source": str(text_file), "samples": 6, "length": 16, "bos": bos}
        api.compress(folder, tmp_path / bos, method="wanda", calibration=calibration)
        assert read_recipe(tmp_path / bos).entries["calibration"]["bos"] == bos
    assert begin_once(seen[0].tolist()) and not begin_once(seen[1].tolist())


def test_a_tokenizer_that_adds_nothing_reads_the_same_either_way(tiny_folder, text_file, tmp_path):
    recipes = []
    for bos in ("each", "first"):
        calibration = {"source": str(text_file), "samples": 4, "length": 16, "bos": bos}
        api.compress(tiny_folder, tmp_path / bos, method="wanda", calibration=calibration)
        recipes.append(read_recipe(tmp_path / bos).entries["calibration_sha256"])
    assert recipes[0] == recipes[1]


@pytest.fixture
def old_run(folder, text_file, tmp_path):
    """A stopped run of a version whose recipes do not record the BOS placement: before the text only."""
    calibration = {"source": str(text_file), "samples": 4, "length": 16, "bos": "first"}
    spec = validate(CompressSpec, model_id=folder, save_path=tmp_path / "out", method="wanda", calibration=calibration)
    events = api.stream_compress(spec)
    next(event for event in events if isinstance(event, BlockDone))
    events.close()
    path = tmp_path / "out.part/lsprism/recipe.json"
    recipe = json.loads(path.read_text())
    del recipe["calibration"]["bos"]
    path.write_text(json.dumps(recipe))
    return spec


def test_a_run_of_an_older_version_keeps_its_bos_placement(old_run, folder, text_file):
    asked = old_run.model_dump() | {"resume": True, "calibration": old_run.calibration.model_dump(exclude={"bos"})}
    events = list(api.stream_compress(validate(CompressSpec, **asked)))
    assert [event.block for event in events if isinstance(event, BlockDone)] == [2]
    assert read_recipe(old_run.save_path).bos == "first"


def test_resuming_with_another_bos_placement_is_an_error(old_run):
    asked = old_run.model_dump() | {"resume": True}
    asked["calibration"]["bos"] = "each"
    with pytest.raises(TargetError, match="bos first, not each"):
        list(api.stream_compress(validate(CompressSpec, **asked)))


def test_a_study_takes_one_option_for_both():
    options = list_options(SweepSpec)
    parser = Parser(prog="x")
    add_options(parser, options)
    said = collect_options(parser.parse_args(["--model-id", "demo", "--bos", "first"]), options)
    assert said["calibration"]["bos"] == said["measuring"]["bos"] == "first"


def test_an_evaluation_caches_both_placements_separately(folder, text_file, tmp_path):
    settings = {"measures": "perplexity", "dataset": str(text_file), "context": 16, "windows": 2}
    found = {}
    for bos in ("each", "first"):
        report = evaluation_api.evaluate(
            folder, measuring=settings | {"bos": bos}, save_path=tmp_path / "out", resume=True
        )
        found[bos] = report.compressed.likelihood
    assert found["each"].begins == "each" and found["first"].begins == "first"
    assert found["each"].value != found["first"].value
    assert len(list((tmp_path / "out/figures").glob("perplexity-*.json"))) == 2
