"""Autotuning: the fastest implementation is chosen, cached, and reported."""

import json
import shutil

import pytest
import torch

from lsprism.packed.formats import Dense, Sparse
from lsprism.packed.kernels import autotune, build, dispatch, reference
from lsprism.records.model_plan import LayerBudget

KEY = autotune.make_key("dense", (3, 4), LayerBudget(kept=12), "float", torch.float16)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A separate cache folder."""
    if shutil.which("c++"):
        build.load_library(build.list_usable_levels()[-1])  # compiled in the default cache
    monkeypatch.setenv("LSPRISM_HOME", str(tmp_path))
    autotune.read_cached.cache_clear()
    yield tmp_path / "cache"
    autotune.read_cached.cache_clear()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that advances only when a candidate is called."""
    now = [0.0]
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def ways(clock):
    """Two candidates that take the given milliseconds, and a record of the calls."""

    def make(first, second, calls=None):
        def going(name, milliseconds):
            def way():
                clock[0] += milliseconds / 1000
                if calls is not None:
                    calls.append(name)

            return way

        return {"first": going("first", first), "second": going("second", second)}

    return make


@pytest.mark.parametrize(("first", "second", "taken"), [(4, 1, "second"), (1, 4, "first"), (1.1, 1, "first")])
def test_the_fastest_is_chosen_or_the_first_if_they_are_close(first, second, taken, folder, ways):
    assert autotune.select_fastest(KEY, ways(first, second)) == taken


def test_a_cached_choice_is_not_measured_again(folder, ways):
    autotune.select_fastest(KEY, ways(4, 1))
    for _ in range(2):
        calls = []
        assert autotune.select_fastest(KEY, ways(1, 4, calls)) == "second" and not calls
        autotune.read_cached.cache_clear()  # simulates another process
    (path,) = folder.glob("choices-*.json")
    assert json.loads(path.read_text()) == {KEY: "second"}


def test_a_damaged_file_or_unknown_choice_is_measured_again(folder, ways):
    autotune.select_fastest(KEY, ways(4, 1))
    (path,) = folder.glob("choices-*.json")
    for text in ("{", "[1]", json.dumps({KEY: "third"})):
        path.write_text(text)
        autotune.read_cached.cache_clear()
        assert autotune.select_fastest(KEY, ways(1, 4)) == "first"


def test_a_clearly_slow_candidate_is_dropped(folder, ways):
    calls = []
    autotune.select_fastest(KEY, ways(0.1, 5, calls))
    assert calls.count("second") == autotune.MIN_CALLS < calls.count("first")


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("faster", ["reference", build.list_usable_levels()[-1]])
def test_a_large_product_uses_the_choice(faster, folder, monkeypatch):
    form, x = Dense(torch.randn(512, 512)), torch.randn(1, 512)
    monkeypatch.setattr(dispatch, "select_fastest", lambda key, ways: faster)
    calls, plain = [], reference.compute_linear
    monkeypatch.setattr(reference, "compute_linear", lambda *args: calls.append(1) or plain(*args))
    dispatch.PreparedMatmul(form, None)(x)
    assert bool(calls) == (faster == "reference")
    with dispatch.use_kernel(build.list_usable_levels()[-1]):
        calls.clear()
        dispatch.PreparedMatmul(form, None)(x)
    assert not calls


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_the_choice_is_stored_under_its_key(folder):
    form = Sparse.pack(torch.randn(520, 520), torch.rand(520, 520) < 0.5)
    asked = ("sparse", (520, 520), LayerBudget(kept=form.kept), "float", torch.float32)
    assert autotune.load_choice(*asked) == build.list_usable_levels()[-1]
    dispatch.PreparedMatmul(form, None)
    (path,) = folder.glob("choices-*.json")
    assert json.loads(path.read_text()) == {autotune.make_key(*asked): autotune.load_choice(*asked)}


def test_layers_with_similar_budgets_share_a_measurement():
    """A model of 200 layers with different budgets is not timed 200 times."""
    shape = (4096, 4096)

    def asked(kept, rank):
        return autotune.make_key(
            "sparse_low_rank", shape, LayerBudget(kept=round(kept * 4096**2), rank=rank), "float", torch.float16
        )

    assert len({asked(kept / 100, round(2.04 * kept)) for kept in range(35, 80)}) <= 5
    assert asked(0.5, 0) != asked(0.5, 100) != asked(0.9, 100) != asked(0.9, 900)
