"""Two models in memory if both fit, otherwise one at a time; models are identified by their files."""

import os

import pytest
import torch
from conftest import make_model

from lsprism.api import compress
from lsprism.evaluation import model_pair as room
from lsprism.evaluation.model_pair import ModelPair, fits_in_memory, load_offloaded, resolve_model
from lsprism.models.source import resolve


@pytest.fixture
def pair(tmp_path):
    return [resolve_model(resolve(str(make_model(tmp_path / name))), "cpu", "auto") for name in ("a", "b")]


def test_auto_is_the_dtype_of_the_model(pair):
    assert (pair[0].device, pair[0].dtype) == ("cpu", "bfloat16")


def test_bytes_are_estimated_from_files_and_dtype(pair):
    stored = sum(path.stat().st_size for path in pair[0].source.folder.glob("*.safetensors"))
    assert pair[0].count_bytes() == stored
    assert pair[0].replace_dtype("float32").count_bytes() == 2 * stored


def test_both_stay_loaded_if_they_fit(pair):
    sides = ModelPair(*pair)
    assert sides.together
    first = sides.load(pair[0])
    sides.load(pair[1])
    assert sides.load(pair[0]) is first


def test_one_is_released_before_the_other_is_loaded_if_they_do_not_fit(pair, monkeypatch):
    monkeypatch.setattr(room, "get_free_bytes", lambda device: room.BESIDE + pair[0].count_bytes())
    sides = ModelPair(*pair)
    assert not sides.together
    first = sides.load(pair[0])
    sides.load(pair[1])
    assert sides.load(pair[0]) is not first


def test_a_model_alone_is_together(pair, monkeypatch):
    monkeypatch.setattr(room, "get_free_bytes", lambda device: 0)
    assert ModelPair(pair[0], None).together


@pytest.mark.parametrize("room_bytes", [10**9, 20_000])
def test_offloading_to_disk_gives_the_same_logits(pair, room_bytes):
    tokens = torch.arange(20)[None]
    expected = pair[0].load().model(tokens).logits
    with load_offloaded(pair[0], room_bytes) as loaded:
        assert torch.equal(loaded.model(tokens).logits, expected)


def test_fit_adds_up(pair, monkeypatch):
    need = room.BESIDE + room.ROOM * 2 * pair[0].count_bytes()
    monkeypatch.setattr(room, "get_free_bytes", lambda device: int(need) - 1)
    assert not fits_in_memory(*pair)
    monkeypatch.setattr(room, "get_free_bytes", lambda device: int(need) + 2)
    assert fits_in_memory(*pair)


def test_the_fingerprint_differs_between_models_and_after_a_change(pair):
    first = pair[0].fingerprint
    assert first != pair[1].fingerprint
    assert pair[0].fingerprint == first
    (shard,) = pair[0].source.folder.glob("*.safetensors")
    os.utime(shard, ns=(1, 1))
    assert pair[0].fingerprint != first


def test_the_subject_of_an_artifact_has_its_settings(tiny_folder, text_file, tmp_path):
    calibration = {"source": str(text_file), "samples": 2, "length": 16}
    compress(str(tiny_folder), tmp_path / "out", method="wanda", sparsity=0.5, calibration=calibration)
    subject = resolve_model(resolve(str(tmp_path / "out")), "cpu", "auto").get_info()
    assert (subject.label, subject.kind, subject.calibration) == ("wanda 0.5", "artifact", text_file.name)
    assert subject.base_model == tiny_folder.name
    assert subject.packed_layers == 14
    dense = resolve_model(resolve(str(tiny_folder)), "cpu", "auto").get_info()
    assert (dense.label, dense.packed_layers, dense.sparsity) == (str(tiny_folder), 0, None)
