"""Incremental detokenization equals decoding at once, and never returns incomplete characters."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lsprism.generation.detokenizer import Detokenizer

OPEN = "\ufffd"
TEXT = "Grüße, 世界! 👩‍👩‍👧 река 🪨 stone — “한국어” 🇫🇷 end"


def byte_level(merges=()):
    """Tokens are bytes; each of `merges` combines two of them (in the alphabet's letters)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: n for n, piece in enumerate([*alphabet, *(a + b for a, b in merges)])}
    inner = Tokenizer(models.BPE(vocab, list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def sentence_piece():
    """Like Llama 2: a space before words, dropped at the start of a text; unknown characters as <0xNN> bytes."""
    words = ["▁", "▁the", "▁river", "walk", "s", "▁st", "one", "."]
    pieces = ["<unk>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *words]
    inner = Tokenizer(models.Unigram([(piece, -float(n > 1)) for n, piece in enumerate(pieces)], 0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    space, strip = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    inner.decoder = decoders.Sequence([space, decoders.ByteFallback(), decoders.Fuse(), strip])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")


@pytest.fixture(scope="module")
def bytewise():
    return byte_level()


@pytest.fixture(scope="module")
def llama_like():
    return sentence_piece()


def pieces(tokenizer, tokens):
    text = Detokenizer(tokenizer)
    return [*(text.push(token) for token in tokens), text.finish()]


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_characters_of_several_bytes_appear_complete(bytewise):
    tokens = ids(bytewise, TEXT)
    assert len(tokens) == len(TEXT.encode())
    out = pieces(bytewise, tokens)
    assert "".join(out) == TEXT
    assert not any(OPEN in piece for piece in out)
    assert [piece for piece in out if piece] == list(TEXT)


def test_a_token_may_end_one_character_and_begin_the_next():
    letters = "".join(byte_level().convert_ids_to_tokens(ids(byte_level(), "世世")))
    tokenizer = byte_level([(letters[2], letters[3])])  # last byte of the first, first byte of the second
    tokens = ids(tokenizer, "世" * 12 + "!")
    assert len(tokens) == 3 * 12 + 1 - 11
    out = pieces(tokenizer, tokens)
    assert "".join(out) == "世" * 12 + "!"
    assert not any(OPEN in piece for piece in out)
    assert out[2] == "世"


def test_leading_spaces_survive_between_pieces(llama_like):
    tokens = ids(llama_like, "the river stone walks. the river")
    out = pieces(llama_like, tokens)
    assert out[:3] == ["the", " river", " st"]
    assert "".join(out) == llama_like.decode(tokens) == "the river stone walks. the river"


def test_byte_fallback_characters_appear_complete(llama_like):
    text = "the 世界 river 👩‍👩‍👧.é"
    tokens = ids(llama_like, text)
    assert len(tokens) > len(text)
    out = pieces(llama_like, tokens)
    assert "".join(out) == text
    assert not any(OPEN in piece for piece in out)


def test_spaces_at_the_very_start_are_those_of_decode(llama_like):
    tokens = llama_like.convert_tokens_to_ids(["▁", "▁", "▁the", "▁river"])
    assert "".join(pieces(llama_like, tokens)) == llama_like.decode(tokens) == "  the river"


def test_words_without_a_decoder_are_joined_as_decode_joins_them(tiny_folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_folder)
    out = pieces(tokenizer, [7, 8, 9, 2, 10])
    assert out == ["river", " stone", " walks", "", " sings", ""]


def test_special_tokens_have_no_text_even_between_bytes(bytewise):
    first, *rest = ids(bytewise, "世")
    end = bytewise.eos_token_id
    assert pieces(bytewise, [end, first, end, *rest, end]) == ["", "", "", "", "世", "", ""]


def test_a_space_survives_many_special_tokens(llama_like):
    tokens = llama_like.convert_tokens_to_ids(["▁the", *["</s>"] * 100, "▁river"])
    assert "".join(pieces(llama_like, tokens)) == "the river"


def test_a_character_cut_off_by_the_end_is_marked_once(bytewise):
    assert pieces(bytewise, ids(bytewise, "a世")[:-1]) == ["a", "", "", OPEN]


def test_a_text_may_follow_another(bytewise):
    text = Detokenizer(bytewise)
    first = [text.push(token) for token in ids(bytewise, "世")[:2]] + [text.finish()]
    second = [text.push(token) for token in ids(bytewise, "b")] + [text.finish()]
    assert (first, second) == (["", "", OPEN], ["b", ""])


def test_invalid_bytes_appear_as_in_decode(bytewise):
    rng = random.Random(0)
    parts = [[n] for n in range(256)] + [ids(bytewise, character) for character in "a é世🪨" * 20]
    for _ in range(200):
        tokens = [n for part in rng.choices(parts, k=rng.randint(1, 60)) for n in part]
        assert "".join(pieces(bytewise, tokens)) == bytewise.decode(tokens)


@pytest.mark.parametrize("seed", range(3))
def test_any_mixture_of_words_bytes_and_spaces_equals_decode(llama_like, seed):
    rng = random.Random(seed)
    for _ in range(100):
        words = rng.choices(["▁", "▁the", "▁river", "walk", "s", ".", "世", "é"], k=rng.randint(1, 12))
        tokens = [n for word in words for n in _tokens(llama_like, word)]
        assert "".join(pieces(llama_like, tokens)) == llama_like.decode(tokens)


def _tokens(tokenizer, word):
    names = [f"<0x{byte:02X}>" for byte in word.encode()] if word in "世é" else [word]
    return tokenizer.convert_tokens_to_ids(names)


@pytest.mark.parametrize("kind", ["words", "silent", "broken"])
def test_the_cost_per_token_is_independent_of_the_length(bytewise, monkeypatch, kind):
    token = {"words": ids(bytewise, "a")[0], "silent": bytewise.eos_token_id, "broken": ids(bytewise, "世")[1]}[kind]
    longest, decode = 0, bytewise.decode

    def spy(tokens, **options):
        nonlocal longest
        longest = max(longest, len(tokens))
        return decode(tokens, **options)

    monkeypatch.setattr(bytewise, "decode", spy)
    out = pieces(bytewise, [token] * 500)
    assert longest <= 49
    assert "".join(out) == decode([token] * 500, skip_special_tokens=True)
