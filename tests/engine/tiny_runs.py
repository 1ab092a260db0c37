"""Tiny compressions for the tests in this folder."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from lsprism import api
from lsprism.events import BlockDone, Event
from lsprism.specs import CompressSpec, validate


def asked(model: Path, text: Path, out: Path, **settings: Any) -> CompressSpec:
    """8 windows of 32 tokens; `seed`, `samples` and `length` configure the calibration."""
    calibration = {"source": str(text), "samples": 8, "length": 32}
    calibration |= {name: settings.pop(name) for name in ("seed", "samples", "length") if name in settings}
    return validate(CompressSpec, model_id=str(model), save_path=out, calibration=calibration, **settings)


def done(spec: CompressSpec) -> list[Event]:
    return list(api.stream_compress(spec))


def stopped_after(spec: CompressSpec, blocks: int) -> None:
    """Run until `blocks` blocks are done, then close the iterator, like the Stop button."""
    with closing(api.stream_compress(spec)) as events:
        for event in events:
            if isinstance(event, BlockDone) and event.block == blocks:
                return


def digests(folder: Path) -> dict[str, str]:
    """Name of each safetensors file -> sha256."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))}


def distance(model: Path, artifact: Path) -> float:
    """Relative distance of the last hidden states to those of the dense model, on other tokens."""
    tokens = torch.randint(3, 20, (16, 32), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        dense, found = (
            api.load(str(m), device="cpu").model.model(tokens).last_hidden_state.float() for m in (model, artifact)
        )
    return ((found - dense).norm() / dense.norm()).item()


def notices(events: list[Event]) -> Iterator[str]:
    return (event.text for event in events if event.kind == "notice")
