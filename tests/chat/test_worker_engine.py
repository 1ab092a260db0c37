"""The chat engine: loaded models, events, and interleaved answers, which equal the answers alone."""

import threading

import pytest
from conftest import make_model

from lsprism import api
from lsprism.chat import SLOTS, ChatAnswer, ModelRequest
from lsprism.chat import worker_engine as room_of_engine
from lsprism.chat.messages import Failed, Generate, Load, ModelsChanged, TaskStarted, TokenChunk, Unload
from lsprism.chat.worker_engine import Engine
from lsprism.errors import DamagedError
from lsprism.evaluation import model_pair as room
from lsprism.generation.prompt import encode
from lsprism.generation.stream import generate
from lsprism.specs import GenerateSpec

SPEC = GenerateSpec(max_new_tokens=12, greedy=True, ignore_eos=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory, text_file):
    """A tiny model and its compressed copy, one per side."""
    folder = tmp_path_factory.mktemp("pair")
    dense = make_model(folder / "dense")
    calibration = {"source": str(text_file), "samples": 2, "length": 16}
    api.compress(str(dense), folder / "half", method="wanda", sparsity=0.5, calibration=calibration)
    return {"left": ModelRequest(model_id=dense), "right": ModelRequest(model_id=folder / "half")}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Skip garbage collection, which is slow and frees little with tiny models."""
    monkeypatch.setattr(room_of_engine, "release_memory", lambda: None)


@pytest.fixture
def told():
    return []


@pytest.fixture
def engine(told):
    return Engine(told.append)


def ask(pair, prompts=("the river", "the river"), spec=SPEC, work=1) -> Generate:
    return Generate(work=work, seats=pair, prompts=dict(zip(SLOTS, prompts, strict=True)), spec=spec)


def answers(told) -> dict[str, ChatAnswer]:
    found: dict[str, ChatAnswer] = {}
    for news in told:
        if isinstance(news, TokenChunk):
            found[news.slot] = found.get(news.slot, ChatAnswer()).add_chunk(news)
    return found


def last(told, kind):
    return [news for news in told if isinstance(news, kind)][-1]


def test_interleaved_answers_equal_the_answers_alone(engine, told, pair):
    engine.generate(ask(pair), threading.Event())
    for slot, answer in answers(told).items():
        loaded = api.load(pair[slot].model_id)
        alone = list(generate(loaded.model, loaded.tokenizer, encode(loaded.tokenizer, "the river", chat=False), SPEC))
        assert answer.tokens == tuple(piece.token for piece in alone)
        assert answer.text == "".join(piece.text for piece in alone)
        assert (answer.reason, answer.timing.tokens) == ("length", 12)
        assert answer.timing.first_token_s > 0 and answer.timing.tokens_per_s > 0


def test_loaded_models_are_reported(engine, told, pair):
    engine.load(Load(work=1, seats=pair))
    seats = last(told, ModelsChanged).seats
    assert [seats[slot].portrait.label for slot in SLOTS] == [pair["left"].model_id, "wanda 0.5"]
    assert all(seat.resident for seat in seats.values())
    engine.unload(Unload(work=2, slots=("left",)))
    assert list(last(told, ModelsChanged).seats) == ["right"]
    assert list(engine._models) == ["right"]


def test_a_loaded_model_is_not_loaded_again(engine, told, pair):
    engine.load(Load(work=1, seats=pair))
    told.clear()
    engine.generate(ask(pair), threading.Event())
    assert not [news for news in told if isinstance(news, TaskStarted) and news.what.startswith("loading")]


def test_the_same_model_on_both_sides_is_loaded_once(engine, pair):
    engine.load(Load(work=1, seats=dict.fromkeys(SLOTS, pair["left"])))
    assert engine._models["left"] is engine._models["right"]


def test_models_that_do_not_fit_together_are_swapped(engine, told, pair, monkeypatch):
    monkeypatch.setattr(room, "get_free_bytes", lambda device: 10 * room.BESIDE if not engine._models else room.BESIDE)
    engine.generate(ask(pair), threading.Event())
    seats = last(told, ModelsChanged)
    assert not seats.together and "swapped" in seats.note
    assert {slot: seat.resident for slot, seat in seats.seats.items()} == {"left": False, "right": True}
    assert {slot: answer.timing.tokens for slot, answer in answers(told).items()} == {"left": 12, "right": 12}
    told.clear()
    engine.generate(ask(pair, work=2), threading.Event())
    order = [news.slot for news in told if isinstance(news, TokenChunk) and news.reason]
    assert order == ["right", "left"], "the loaded model answers first"


def test_answers_run_one_at_a_time_if_their_caches_do_not_fit(engine, told, pair, monkeypatch):
    engine.load(Load(work=1, seats=pair))
    monkeypatch.setattr(room_of_engine, "estimate_cache_bytes", lambda model, tokens: 6 * 10**8)
    monkeypatch.setattr(room, "get_free_bytes", lambda device: 10**9)
    engine.generate(ask(pair, work=2), threading.Event())
    order = [news.slot for news in told if isinstance(news, TokenChunk)]
    assert order == sorted(order) and "one at a time" in last(told, TaskStarted).what
    assert {slot: answer.timing.tokens for slot, answer in answers(told).items()} == {"left": 12, "right": 12}


def test_an_answer_whose_cache_does_not_fit_is_refused(engine, told, pair, monkeypatch):
    engine.load(Load(work=1, seats=pair))
    dense = engine._models["left"].model
    monkeypatch.setattr(room_of_engine, "estimate_cache_bytes", lambda model, tokens: 10**12 * (model is dense))
    engine.generate(ask(pair, work=2), threading.Event())
    failed = last(told, Failed)
    assert failed.slot == "left" and "12 tokens needs about 1000.0 GB" in failed.message
    assert answers(told)["right"].timing.tokens == 12


def test_a_model_too_large_even_alone_is_refused(engine, told, pair, monkeypatch):
    monkeypatch.setattr(room, "get_free_bytes", lambda device: 1000)
    engine.load(Load(work=1, seats=pair))
    assert "needs about 1.0 GB of memory, but 0.0 GB are free" in last(told, Failed).message
    assert not last(told, ModelsChanged).seats


def test_an_error_of_one_side_does_not_affect_the_other(engine, told, pair):
    engine.generate(ask({**pair, "left": ModelRequest(model_id="/nowhere/at-all")}), threading.Event())
    assert last(told, Failed).slot == "left"
    assert answers(told)["right"].timing.tokens == 12
    told.clear()
    engine.generate(ask(pair, prompts=("the " * 300, "the river"), work=2), threading.Event())
    assert "fills the model's context" in last(told, Failed).message
    assert list(answers(told)) == ["right"]


def test_a_damaged_artifact_is_not_loaded(engine, told, pair, monkeypatch):
    def damaged(*_):
        raise DamagedError("model.safetensors is cut short.")

    engine.load(Load(work=1, seats=pair))
    monkeypatch.setattr(api, "load", damaged)
    engine.load(Load(work=2, seats={"left": pair["left"].model_copy(update={"dtype": "float32"})}))
    assert list(last(told, ModelsChanged).seats) == ["right"]


def test_stop_ends_both_within_a_token(engine, told, pair):
    stop = threading.Event()
    engine.load(Load(work=1, seats=pair))
    engine.tell = lambda news: (told.append(news), isinstance(news, TokenChunk) and stop.set())
    engine.generate(ask(pair), stop)
    assert {answer.reason for answer in answers(told).values()} == {"stopped"}
    assert all(answer.timing.tokens <= 2 for answer in answers(told).values())


def test_sampling_is_independent_of_the_other_side(engine, told, pair):
    spec = GenerateSpec(max_new_tokens=12, seed=7, temperature=2.0, ignore_eos=True)
    engine.generate(ask(pair, spec=spec), threading.Event())
    together = answers(told)["left"].tokens
    told.clear()
    alone = Generate(work=2, seats=pair, prompts={"left": "the river"}, spec=spec)
    engine.generate(alone, threading.Event())
    assert answers(told)["left"].tokens == together
