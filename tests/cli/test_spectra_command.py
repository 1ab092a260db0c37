"""The verb spectra: a line for each compressed matrix, and nothing made twice."""

import json

import pytest

from lsprism import api
from lsprism.charts.spectrum import plot_energy, plot_split, plot_values, read_spectra, to_csv
from lsprism.cli import main


@pytest.fixture(scope="module")
def artifact(tiny_folder, text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spectra") / "half"
    calibration = {"source": str(text_file), "samples": 4, "length": 32}
    api.compress(tiny_folder, folder, method="svd", sparsity=0.5, calibration=calibration)
    return folder


def test_every_matrix_has_its_line(artifact, tmp_path, capsys):
    path = tmp_path / "spectra.jsonl"
    assert main(["spectra", "--model-path", str(artifact), "--save-path", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"save_path": str(path)}
    sites = read_spectra(path)
    layers = json.loads((artifact / "lsprism" / "report.json").read_text())["layers"]
    assert [site.name for site in sites] == [layer["name"] for layer in layers if layer["form"] != "dense"]
    for site in sites:
        after = dict(zip(site.ranks, site.after, strict=True))
        assert site.rank and after[site.rank] > 1e-4 and after[site.ranks[-1]] < 1e-2 * after[1]
        assert site.kept_energy < site.weight_energy


def test_what_is_there_is_not_made_anew(artifact, tmp_path):
    path = tmp_path / "spectra.jsonl"
    words = ["spectra", "--model-path", str(artifact), "--save-path", str(path)]
    assert main(words) == 0
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # a kill in the middle of a line
    assert main(words) == 0
    assert {site.name for site in read_spectra(path)} == {json.loads(line)["name"] for line in whole.splitlines()}
    assert main(words) == 0 and path.read_bytes().count(b"\n") == len(whole.splitlines()) + 1  # the cut one stays


def test_a_model_that_is_not_compressed_is_refused(tiny_folder, tmp_path):
    assert main(["spectra", "--model-path", str(tiny_folder), "--save-path", str(tmp_path / "s.jsonl")]) == 2


def test_spectra_can_be_drawn(artifact, tmp_path):
    path = tmp_path / "spectra.jsonl"
    main(["spectra", "--model-path", str(artifact), "--save-path", str(path)])
    sites = read_spectra(path)[:2]
    figure = plot_values(sites)
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert list(figure.data[1].y) == sites[0].after and len(figure.layout.shapes) == len({s.rank for s in sites})
    assert list(plot_energy(sites).data[0].y) == sites[0].energy_before
    shares = [bar.y[0] for bar in plot_split(sites).data]
    assert shares[0] == 0 and shares[1] == pytest.approx(shares[2])  # no sparse part
    assert len(to_csv(sites).splitlines()) == 1 + sum(len(site.ranks) for site in sites)
