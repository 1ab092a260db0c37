"""Settings in a model's own files affect neither outputs nor metrics; inputs beyond its limits are errors."""

import json

import pytest
import torch
from conftest import make_model, make_tokenizer
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import lsprism
from lsprism import api, evaluation_api
from lsprism.artifact.sidecar_files import License, copy_companions
from lsprism.errors import SpecError
from lsprism.generation.prompt import encode
from lsprism.models.load import load
from lsprism.models.source import resolve
from lsprism.specs import GenerateSpec

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = GenerateSpec(max_new_tokens=6, greedy=True, ignore_eos=True)


def configure(folder, **settings) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def answer_of(folder) -> str:
    return "".join(piece.text for piece in api.stream_generate(api.load(folder, "cpu"), "a river", GREEDY))


@pytest.mark.parametrize(
    "settings",
    [{"return_dict": False}, {"output_hidden_states": True}, {"output_attentions": True}, {"use_cache": False}],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("source", ["self", "file"])
def test_output_settings_of_a_config_have_no_effect(settings, source, tmp_path, text_file):
    found = []
    for name, odd in (("plain", {}), ("odd", settings)):
        folder = make_model(tmp_path / name, dtype=torch.float32)
        configure(folder, **odd)
        text = str(text_file) if source == "file" else "self"
        calibration = {"source": text, "samples": 3, "length": 16}
        lsprism.compress(folder, tmp_path / f"{name}-out", method="wanda", device="cpu", calibration=calibration)
        asked = {"measures": "perplexity,kl", "dataset": str(text_file), "context": 16, "windows": 2}
        report = evaluation_api.evaluate(tmp_path / f"{name}-out", measuring=asked, device="cpu")
        found.append((answer_of(folder), answer_of(tmp_path / f"{name}-out"), report.perplexity, report.agreement.kl))
    assert found[0] == found[1]


@pytest.fixture
def short(tmp_path):
    """A GPT-2 with learned positions for 64 tokens."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def test_windows_beyond_learned_positions_are_an_error_before_the_work(short, text_file, tmp_path):
    calibration = {"source": str(text_file), "samples": 2, "length": 65}
    for verb in (lsprism.inspect, lambda *args, **more: lsprism.compress(args[0], tmp_path / "out", **more)):
        with pytest.raises(SpecError, match="--length 65 exceeds the model's 64 positions") as caught:
            verb(short, calibration=calibration)
        assert "64 or fewer" in caught.value.hint
    assert not list(tmp_path.glob("out*"))
    lsprism.compress(short, tmp_path / "out", method="wanda", calibration=calibration | {"length": 64})


def test_a_prompt_beyond_learned_positions_is_an_error(short):
    with pytest.raises(SpecError, match="context of 64"):
        api.stream_generate(api.load(short, "cpu"), "river " * 70, GREEDY, chat=False)


def test_windows_beyond_the_context_of_computed_positions_are_noted(tiny_folder):
    assert "the model's context of 256" in lsprism.inspect(tiny_folder, calibration={"length": 300}).notes[0]
    assert not any("longer" in note for note in lsprism.inspect(tiny_folder, calibration={"length": 256}).notes)


@pytest.fixture
def padded(tmp_path):
    """The tokenizer has one token more than the embedding has rows."""
    folder = make_model(tmp_path / "padded")
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    (tmp_path / "pad.txt").write_text("a river [PAD] sings " * 40)
    return folder


def test_a_token_beyond_the_embedding_is_named(padded, tmp_path):
    text = str(tmp_path / "pad.txt")
    loaded = load(resolve(str(padded)), "cpu")
    settings = {"dataset": text, "context": 16}
    works = [
        lambda: lsprism.compress(padded, tmp_path / "out", calibration={"source": text, "samples": 2, "length": 16}),
        lambda: api.stream_generate(loaded, "a [PAD] river", GREEDY),
        lambda: evaluation_api.evaluate(padded, measuring=settings | {"measures": "perplexity"}),
        lambda: evaluation_api.evaluate(padded, measuring=settings | {"measures": "word-perplexity"}),
    ]
    for work in works:
        with pytest.raises(SpecError, match=r"'\[PAD\]' as token 24, but the model's embedding has only 24 rows"):
            work()


def test_a_folder_of_chat_templates_is_read_and_copied(tmp_path):
    folder, copy = make_model(tmp_path / "tiny"), tmp_path / "copy"
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"default": "{{ messages[0]['content'] }} then", "rag": "then"}
    tokenizer.save_pretrained(folder)
    assert (folder / "additional_chat_templates/rag.jinja").is_file()
    copy.mkdir()
    copy_companions(folder, copy, License({}))
    for place in (folder, copy):
        read = AutoTokenizer.from_pretrained(place)
        assert read.chat_template == tokenizer.chat_template
        assert read.decode(encode(read, "a river")[0]) == "a river then"
