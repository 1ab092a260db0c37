"""What calibration taught of a model, on disk, so that the next compression of it need not ask again.

Kept are a few numbers for each site (outliers, ranks, harms, error curves), some hundred kilobytes in all, and nothing
larger: the Gram matrices that methods work with take tens of gigabytes for a model of 8 B parameters, depend on what
was taken from the layers before, and are made again in every run.

A file is named by what it depends on: the model's files, dtype and kind of device, and, unless the weights alone were
looked at, the text and its windows. A file that cannot be read is one that is not there.
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

from lsprism.calibration.corpus import text_of
from lsprism.paths import expand, traits_folder
from lsprism.reports import ModelSource, SiteTraits
from lsprism.specs import CalibrationSpec

VERSION = 2  # of what the numbers mean
TAIL = 1 << 16  # bytes at the end of a file of weights that are looked at
_TRAITS = TypeAdapter(list[SiteTraits])
logger = logging.getLogger("lsprism.calibration")


@dataclass(frozen=True)
class Known:
    """The file of one kind of traits. `path` None: of this model nothing can be known, its weights are not here yet."""

    path: Path | None

    def read(self) -> list[SiteTraits]:
        """In the order of the sites; empty where nothing is known."""
        try:
            return _TRAITS.validate_json(self.path.read_bytes()) if self.path else []
        except (OSError, ValidationError):
            return []

    def write(self, traits: Sequence[SiteTraits]) -> None:
        """Whole or not at all; a cache that cannot be written is no reason to stop."""
        if self.path is None:
            return
        beside = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(_TRAITS.dump_json(list(traits), exclude_defaults=True))
            beside.replace(self.path)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            logger.info("What was learnt of the model cannot be kept in %s.", self.path.parent)

    def add_points(self, sites: Sequence[SiteTraits]) -> None:
        """Put the points of these curves to those that are known, the new ones in the place of equal budgets."""
        known = {traits.name: traits for traits in self.read()}
        merged = []
        for site in sites:
            before = known[site.name].curve if site.name in known else []
            points = {(point.density, point.rank_share): point for point in [*before, *site.curve]}
            merged.append(site.model_copy(update={"curve": [points[key] for key in sorted(points)]}))
        self.write(merged)


def known(source: ModelSource, kind: str, settings: dict, calibration: CalibrationSpec | None = None) -> Known:
    """`kind` of traits of a model, learnt under `settings` (plain values), on a text or on the weights alone."""
    model = _fingerprint(source.folder) if not source.config_only else None
    if model is None:
        return Known(None)
    text = _text(calibration.model_copy(update={"source": text_of(calibration, source)})) if calibration else None
    key = hashlib.sha256(json.dumps([VERSION, model, settings, text], sort_keys=True).encode()).hexdigest()
    return Known(traits_folder() / f"{kind}-{key[:16]}.json")


def _fingerprint(folder: Path) -> list | None:
    """Of the config, and of the weights and the tokenizer by the size, time and end of every file: to read them whole
    would take as long as the work."""
    try:
        config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
        weights = sorted(folder.glob("*.safetensors"))
        files = [(path.name, *_stamp(path), _end(path)) for path in [*weights, *sorted(folder.glob("tokenizer*"))]]
    except OSError:
        return None
    return [config, files] if weights else None


def _end(path: Path) -> str:
    with path.open("rb") as opened:
        opened.seek(max(0, path.stat().st_size - TAIL))
        return hashlib.sha256(opened.read()).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _text(calibration: CalibrationSpec) -> list:
    """The request, and the stamp of a file. What the hub calls by the same name is taken for the same text."""
    path = expand(calibration.source)
    first = {"bos"} if calibration.bos == "first" else set()  # as in files of versions that knew no other way
    return [calibration.model_dump(mode="json", exclude=first), _stamp(path) if os.path.isfile(path) else None]
