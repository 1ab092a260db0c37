"""One output as an iterator: compared with transformers, stop reasons, stopping, and interleaved streams."""

import threading
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lsprism.errors import SpecError
from lsprism.generation import stream as room
from lsprism.generation.stream import find_end_tokens, generate, get_context_length
from lsprism.generation.timing import Clock
from lsprism.specs import GenerateSpec

PROMPTS = [[1, 5, 6], [4, 7, 9, 3, 10, 13], [1]]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return AutoTokenizer.from_pretrained(tiny_folder)


class Scripted:
    """A model that generates `script` token by token, calls `work` for each, and counts its calls."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, script, eos=2, context=256, work=lambda: None):
        self.script, self.work, self.calls = script, work, 0
        self.generation_config = SimpleNamespace(eos_token_id=eos)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=context))

    def __call__(self, **inputs):
        return self.forward(**inputs)

    def get_input_embeddings(self):
        return torch.nn.Embedding(25, 1)

    def forward(self, input_ids, past_key_values, use_cache, logits_to_keep):
        self.work()
        logits = torch.zeros(1, 1, 25)
        logits[0, 0, self.script[self.calls]] = 100.0
        self.calls += 1
        return SimpleNamespace(logits=logits, past_key_values=object())


def answer(model, tokenizer, prompt=(1,), stop=None, **settings):
    return generate(model, tokenizer, torch.tensor([list(prompt)]), GenerateSpec(**settings), stop)


def tokens(pieces):
    return [piece.token for piece in pieces]


def text(pieces):
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize(("prompt", "penalty"), [(PROMPTS[0], 1.0), (PROMPTS[1], 1.4), (PROMPTS[2], 1.0)])
def test_greedy_equals_transformers_token_for_token(model, tokenizer, prompt, penalty):
    settings = {"max_new_tokens": 24, "repetition_penalty": penalty}
    theirs = model.generate(torch.tensor([prompt]), do_sample=False, **settings)[0, len(prompt) :].tolist()
    pieces = list(answer(model, tokenizer, prompt, greedy=True, **settings))
    assert tokens(pieces) == theirs
    assert text(pieces) == tokenizer.decode(theirs, skip_special_tokens=True)


def test_a_seed_gives_the_same_text_despite_global_random_state(model, tokenizer):
    settings = {"max_new_tokens": 30, "temperature": 2.0, "ignore_eos": True}
    alone = tokens(answer(model, tokenizer, seed=7, **settings))
    disturbed = []
    for n, piece in enumerate(answer(model, tokenizer, seed=7, **settings)):
        torch.manual_seed(n)
        disturbed.append(piece.token)
    assert disturbed == alone != tokens(answer(model, tokenizer, seed=8, **settings))


def test_interleaved_streams_give_the_same_text(model, tokenizer):
    settings = {"max_new_tokens": 30, "ignore_eos": True}
    alone = [tokens(answer(model, tokenizer, p, seed=n, **settings)) for n, p in enumerate(PROMPTS[:2])]
    streams = [answer(model, tokenizer, p, seed=n, **settings) for n, p in enumerate(PROMPTS[:2])]
    together = [(a.token, b.token) for a, b in zip(*streams, strict=True)]
    assert [list(side) for side in zip(*together, strict=True)] == alone
    assert alone[0] != alone[1]


def test_the_clock_excludes_other_streams(tokenizer, monkeypatch):
    now = [0.0]

    def takes(seconds):
        return lambda: now.__setitem__(0, now[0] + seconds)

    monkeypatch.setattr(room, "Clock", lambda: Clock(lambda: now[0]))
    quick = answer(Scripted([4, 5, 6, 7], work=takes(1)), tokenizer, max_new_tokens=4)
    slow = answer(Scripted([4, 5, 6, 7], work=takes(10)), tokenizer, max_new_tokens=4)
    *_, (fast, late) = zip(quick, slow, strict=True)
    assert (fast.timing.first_token_s, fast.timing.decode_s, fast.timing.tokens_per_s) == (1, 3, 1)
    assert (late.timing.first_token_s, late.timing.decode_s, late.timing.tokens_per_s) == (10, 30, 0.1)


def test_only_the_last_piece_has_a_reason_and_eos_has_no_text(tokenizer):
    pieces = list(answer(Scripted([7, 8, 2]), tokenizer))
    assert [(p.token, p.text, p.reason) for p in pieces] == [(7, "river", None), (8, " stone", None), (2, "", "eos")]
    assert [p.timing.tokens for p in pieces] == [1, 2, 3]


@pytest.mark.parametrize("end", [2, 9, 11])
def test_any_of_several_end_tokens_ends_the_answer(tokenizer, end):
    """9 and 11 by the model's generation config, 2 by the tokenizer."""
    model = Scripted([7, 8, end, 8], eos=[9, 11])
    assert find_end_tokens(model, tokenizer) == {2, 9, 11}
    *_, last = answer(model, tokenizer)
    assert (last.token, last.text, last.reason, model.calls) == (end, "", "eos", 3)


def test_end_tokens_may_be_missing():
    model = Scripted([], eos=None)
    assert find_end_tokens(model, SimpleNamespace(eos_token_id=None)) == frozenset()


def test_ignore_eos_generates_the_full_length(tokenizer):
    pieces = list(answer(Scripted([7, 2, 8, 2]), tokenizer, max_new_tokens=4, ignore_eos=True))
    assert tokens(pieces) == [7, 2, 8, 2]
    assert (text(pieces), pieces[-1].reason) == ("river stone", "length")


def test_the_length_limit_needs_no_extra_step(tokenizer):
    model = Scripted([7, 8, 9, 10])
    pieces = list(answer(model, tokenizer, max_new_tokens=3))
    assert (tokens(pieces), pieces[-1].reason, model.calls) == ([7, 8, 9], "length", 3)


@pytest.mark.parametrize("reason", ["length", "stopped", "eos"])
def test_the_last_piece_includes_pending_text(reason):
    """Tokens 0, 1, 2 are the bytes of one character; the answer ends after two of them."""
    decode = lambda tokens, **_: bytes("世".encode()[n] for n in tokens).decode(errors="replace")
    tokenizer = SimpleNamespace(decode=decode, all_special_ids=[], added_tokens_decoder={}, eos_token_id=None)
    stop, settings = threading.Event(), {"max_new_tokens": 2} if reason == "length" else {}
    stream = answer(Scripted([0, 1, 9], eos=9), tokenizer, stop=stop, **settings)
    out = [next(stream)]
    if reason == "stopped":
        stop.set()
    out += stream
    assert (out[0].text, text(out), out[-1].reason) == ("", "\ufffd", reason)


def test_the_end_of_the_context_ends_the_answer(model, tokenizer):
    assert get_context_length(model) == 256
    pieces = list(answer(model, tokenizer, [5] * 250, max_new_tokens=100, ignore_eos=True))
    assert (len(pieces), pieces[-1].reason) == (6, "length")


def test_a_prompt_that_fills_the_context_is_an_immediate_error(model, tokenizer):
    with pytest.raises(SpecError, match="256 tokens.* 256[.]") as caught:
        answer(model, tokenizer, [5] * 256)
    assert "255" in caught.value.hint


def test_a_model_without_a_context_limit_takes_any_prompt(tokenizer):
    assert len(list(answer(Scripted([7, 8], context=None), tokenizer, [5] * 5000, max_new_tokens=2))) == 2


def test_the_stop_flag_stops_at_the_next_token(tokenizer):
    model, stop, pieces = Scripted([7] * 50), threading.Event(), []
    for piece in answer(model, tokenizer, stop=stop):
        pieces.append(piece)
        if len(pieces) == 3:
            stop.set()
    assert tokens(pieces) == [7, 7, 7, None]
    assert (pieces[-1].text, pieces[-1].reason, pieces[-1].timing) == ("", "stopped", pieces[-2].timing)
    assert model.calls == 3


def test_a_stop_before_the_start_computes_nothing(tokenizer):
    model, stop = Scripted([7]), threading.Event()
    stop.set()
    (piece,) = answer(model, tokenizer, stop=stop)
    assert (piece.token, piece.reason, piece.timing.tokens, model.calls) == (None, "stopped", 0, 0)


def test_closing_the_iterator_ends_it(tokenizer):
    model = Scripted([7] * 50)
    stream = answer(model, tokenizer)
    next(stream)
    stream.close()
    assert list(stream) == []
    assert model.calls == 1


def test_no_global_state_is_held_between_tokens(model, tokenizer):
    stream = answer(model, tokenizer, max_new_tokens=5)
    next(stream)
    assert not torch.is_inference_mode_enabled()
    torch.ones(2, requires_grad=True).sum().backward()
    threads = []
    worker = threading.Thread(target=lambda: threads.append(next(stream)))  # a page may change threads between steps
    worker.start()
    worker.join()
    assert threads[0].timing.tokens == 2
