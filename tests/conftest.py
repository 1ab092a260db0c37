"""Fixtures for all tests: a complete tiny model folder, made quickly and without a download."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton's own functions read it when they are imported

pytest_plugins = ["dashboard_fixture"]  # the fixtures dashboard, browser, page

WORDS = (
    "<unk> <s> </s> a the one two river stone walks sings under over and then . , ? "  # the order is the token ids
    "red blue old quiet bright far"
).split()


def make_tokenizer():
    """A word-level tokenizer over WORDS, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} . {{ m['content'] }} . {% endfor %}"
        + "{% if add_generation_prompt %}then {% endif %}"
    )
    return tokenizer


def make_model(folder: Path, *, blocks: int = 2, tied: bool = False, bias: bool = False, dtype=torch.bfloat16) -> Path:
    """Write a random Llama of `blocks` layers, 32 wide, with its tokenizer, as a normal transformers folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        attention_bias=bias,
        mlp_bias=bias,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """Tests never write to the user's state or cache folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSPRISM_STATE", str(tmp_path_factory.mktemp("state")))
        patch.setenv("LSPRISM_TRAITS", str(tmp_path_factory.mktemp("traits")))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """About 4,000 words that the tiny tokenizer knows."""
    generator = torch.Generator().manual_seed(1)
    picks = torch.randint(3, len(WORDS), (4000,), generator=generator).tolist()
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(WORDS[n] for n in picks), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def one_thread():
    """With small matrices, threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
