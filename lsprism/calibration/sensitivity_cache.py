"""Disk cache of the measurements of a model's layers, so that later compressions of the model can reuse them.

Stores a few numbers per layer (outliers, ranks, sensitivities, error curves), some hundred kilobytes in all. Gram
matrices are not cached: they take tens of gigabytes for a model of 8 B parameters, and with error compensation they
depend on the layers compressed before.

The file name is a hash of everything that the values depend on: the model's files, dtype and device type, and, unless
only the weights are measured, the calibration text and its windows. An unreadable file counts as missing.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lsprism.calibration.corpus import resolve_source
from lsprism.paths import expand, traits_folder
from lsprism.records.model_plan import LayerSensitivity, ModelSource
from lsprism.specs import CalibrationSpec

VERSION = 2  # of the definition of the stored values
TAIL = 1 << 16  # bytes at the end of a weight file that are part of its fingerprint
_SENSITIVITIES = TypeAdapter(list[LayerSensitivity])
logger = logging.getLogger("lsprism.calibration")


@dataclass(frozen=True)
class SensitivityCache:
    """The cache file of one kind of measurement. `path` is None while the model's weights are not available."""

    path: Path | None

    def read(self) -> list[LayerSensitivity]:
        """The stored values in the order of the layers; empty if there are none."""
        try:
            return _SENSITIVITIES.validate_json(self.path.read_bytes()) if self.path else []
        except (OSError, ValidationError):
            return []

    def write(self, traits: Sequence[LayerSensitivity]) -> None:
        """Write atomically. A cache that cannot be written is logged, not raised."""
        if self.path is None:
            return
        beside = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(_SENSITIVITIES.dump_json(list(traits), exclude_defaults=True))
            beside.replace(self.path)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            logger.info("Layer measurements cannot be cached in %s.", self.path.parent)

    def add_points(self, sites: Sequence[LayerSensitivity]) -> None:
        """Merge the points of these curves into the stored ones; points with an equal budget are replaced."""
        known = {traits.name: traits for traits in self.read()}
        merged = []
        for site in sites:
            before = known[site.name].curve if site.name in known else []
            points = {(point.density, point.rank_share): point for point in [*before, *site.curve]}
            merged.append(site.model_copy(update={"curve": [points[key] for key in sorted(points)]}))
        self.write(merged)


def open_sensitivity_cache(
    source: ModelSource, kind: str, settings: dict, calibration: CalibrationSpec | None = None
) -> SensitivityCache:
    """The cache file of one `kind` of measurement of a model.

    `settings`: plain values that the measurement depends on. `calibration`: the text; None if only weights are used.
    """
    model = _compute_fingerprint(source.folder) if not source.config_only else None
    if model is None:
        return SensitivityCache(None)
    text = (
        _get_text_key(calibration.model_copy(update={"source": resolve_source(calibration, source)}))
        if calibration
        else None
    )
    key = hashlib.sha256(json.dumps([VERSION, model, settings, text], sort_keys=True).encode()).hexdigest()
    return SensitivityCache(traits_folder() / f"{kind}-{key[:16]}.json")


def _compute_fingerprint(folder: Path) -> list | None:
    """The config's hash, and name, size, time and end of every weight and tokenizer file; None without weights.

    Hashing the weight files completely would take as long as the measurement.
    """
    try:
        config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
        weights = sorted(folder.glob("*.safetensors"))
        files = [
            (path.name, *_get_stamp(path), _read_end(path)) for path in [*weights, *sorted(folder.glob("tokenizer*"))]
        ]
    except OSError:
        return None
    return [config, files] if weights else None


def _read_end(path: Path) -> str:
    with path.open("rb") as opened:
        opened.seek(max(0, path.stat().st_size - TAIL))
        return hashlib.sha256(opened.read()).hexdigest()


def _get_stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _get_text_key(calibration: CalibrationSpec) -> list:
    """The calibration settings, and size and time of a local file. A Hub dataset is identified by its name alone."""
    path = expand(calibration.source)
    first = {"bos"} if calibration.bos == "first" else set()  # keeps the keys of versions without this option
    return [calibration.model_dump(mode="json", exclude=first), _get_stamp(path) if os.path.isfile(path) else None]
