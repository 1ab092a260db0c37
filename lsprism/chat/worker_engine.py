"""Loads, unloads and runs the models of both sides on one thread. Answers are interleaved, token by token.

The clock of each side runs only during its own tokens (see generation/timing.py), so both sides can stream at once and
their speeds are the same as alone.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Event

import torch

from lsprism import api
from lsprism.chat.batching import TokenBatcher
from lsprism.chat.messages import (
    SLOTS,
    Failed,
    Generate,
    Load,
    LoadedSlot,
    ModelRequest,
    ModelsChanged,
    Slot,
    TaskStarted,
    Unload,
    WorkerEvent,
)
from lsprism.chat.model_summary import build_model_summary
from lsprism.chat.worker_memory import read_memory, release_memory
from lsprism.errors import LSPrismError, ResourceError
from lsprism.evaluation import model_pair as room
from lsprism.evaluation.speed import WARM_UP_TOKENS
from lsprism.evaluation.speed import measure_answer as warm_up
from lsprism.generation.kv_cache import estimate_cache_bytes
from lsprism.generation.prompt import encode
from lsprism.generation.stream import compute_max_new_tokens, generate
from lsprism.models.load import LoadedModel
from lsprism.models.source import resolve

WARM_UP_PROMPT = 8  # tokens; the first product of a process may compile kernels


class Engine:
    """`tell` receives all events. Inside `breakable()`, a KeyboardInterrupt may cancel a load."""

    def __init__(
        self, tell: Callable[[WorkerEvent], None], breakable: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self.tell, self._breakable = tell, breakable
        self._seats: dict[Slot, LoadedSlot] = {}
        self._models: dict[Slot, LoadedModel] = {}
        self._note = ""  # why the models are not in memory together; "": they are

    def load(self, asked: Load) -> None:
        for slot, wanted in asked.seats.items():
            with self._report_errors(asked.work, slot):
                self._load_into(asked.work, slot, wanted)

    def unload(self, asked: Unload) -> None:
        with self._report_models(asked.slots):
            for slot in asked.slots:
                self._seats.pop(slot, None)
                self._models.pop(slot, None)
            self._note = ""

    def generate(self, asked: Generate, stop: Event) -> None:
        """Answer on both sides, interleaved. If both models do not fit, one answers before the other is loaded."""
        ready: list[Slot] = []

        def decode() -> None:
            self._decode(asked, ready, stop)
            ready.clear()

        for slot in sorted(asked.prompts, key=lambda slot: (slot not in self._models, SLOTS.index(slot))):
            with self._report_errors(asked.work, slot):
                if not stop.is_set():
                    self._load_into(asked.work, slot, asked.seats[slot], decode)
                    ready.append(slot)
        decode()

    def _decode(self, asked: Generate, slots: list[Slot], stop: Event) -> None:
        """Interleave the answers of these sides; one after the other if their KV caches do not fit together."""
        prompts, needs = {}, {}
        for slot in slots:
            with self._report_errors(asked.work, slot):
                prompts[slot], needs[slot] = self._prepare_prompt(slot, asked)
        if not prompts:
            return
        free = room.get_free_bytes(self._get_device())
        together = [list(prompts)] if sum(needs.values()) < free else [[slot] for slot in prompts]
        for side in together:
            what = "answering" if len(together) == 1 else "answering one at a time (low memory)"
            self.tell(TaskStarted(work=asked.work, what=what))
            self._stream(asked, {slot: prompts[slot] for slot in side}, stop)

    def _prepare_prompt(self, slot: Slot, asked: Generate) -> tuple[torch.Tensor, int]:
        """The prompt [1, n], and the bytes of the KV cache for the longest answer; ResourceError if it does not fit."""
        model, prompt = self._models[slot], asked.prompts[slot]
        tokens = encode(model.tokenizer, prompt, chat=False if isinstance(prompt, str) else None)
        most = compute_max_new_tokens(model.model, tokens, asked.spec)
        need, free = estimate_cache_bytes(model.model, tokens.shape[1] + most), room.get_free_bytes(str(model.device))
        if need >= free:
            raise ResourceError(
                f"An answer of up to {most:,} tokens needs about {need / 1e9:.1f} GB for the KV cache,"
                f" but {free / 1e9:.1f} GB are free.",
                "Reduce the maximum number of new tokens, or close other programs.",
            )
        return tokens, need

    def _stream(self, asked: Generate, prompts: dict[Slot, torch.Tensor], stop: Event) -> None:
        streams, outgoing = {}, TokenBatcher(self.tell, asked.work)
        for slot, tokens in prompts.items():
            with self._report_errors(asked.work, slot):
                model = self._models[slot]
                streams[slot] = generate(model.model, model.tokenizer, tokens, asked.spec, stop)
        while streams:
            for slot in list(streams):
                piece = None
                with self._report_errors(asked.work, slot):
                    piece = next(streams[slot])
                    outgoing.add(slot, piece)
                if piece is None or piece.reason:
                    del streams[slot]
        outgoing.flush()

    def _load_into(
        self, work: int, slot: Slot, wanted: ModelRequest, make_way: Callable[[], None] = lambda: None
    ) -> None:
        """Load the model of this side unless it is in memory; `make_way` is called before the other one is unloaded."""
        seat = self._seats.get(slot)
        if slot in self._models and seat is not None and seat.wanted == wanted:
            return
        self.tell(TaskStarted(work=work, slot=slot, what=f"loading {wanted.model_id}"))
        with self._report_models([slot]):
            started = time.monotonic()
            self._unload_all(slot)
            model = self._find_shared(wanted) or self._load_model(slot, wanted, make_way)
            with self._breakable():
                header = build_model_summary(model)
            seconds = time.monotonic() - started
            self._models[slot] = model
            self._seats[slot] = LoadedSlot(wanted=wanted, portrait=header, resident=True, seconds=seconds)

    def _load_model(self, slot: Slot, wanted: ModelRequest, make_way: Callable[[], None]) -> LoadedModel:
        with self._breakable():  # may download the model
            side = room.resolve_model(resolve(wanted.model_id), wanted.device, wanted.dtype)
        need, free = round(room.ROOM * side.count_bytes() + room.BESIDE), room.get_free_bytes(side.device)
        others = [other for other in self._models if other != slot]
        if need >= free and others:
            make_way()
            self._note = (
                f"Not enough memory for both models: {wanted.model_id} needs about {need / 1e9:.1f} GB, and"
                f" {free / 1e9:.1f} GB are free. Models are swapped: each is loaded when it is needed."
            )
            self._unload_all(*others)
            free = room.get_free_bytes(side.device)
        elif others:
            self._note = ""
        if need >= free:
            raise ResourceError(
                f"{wanted.model_id} needs about {need / 1e9:.1f} GB of memory, but {free / 1e9:.1f} GB are free.",
                "Close other programs, or choose a smaller model.",
            )
        with self._breakable():
            loaded = api.load(wanted.model_id, side.device, side.dtype)
            vocabulary = loaded.model.config.get_text_config().vocab_size
            warm_up(loaded, (torch.arange(WARM_UP_PROMPT) % vocabulary)[None], WARM_UP_TOKENS)
        return loaded

    def _find_shared(self, wanted: ModelRequest) -> LoadedModel | None:
        """The other side's model if it is the same one."""
        same = [self._models[slot] for slot in self._models if self._seats[slot].wanted == wanted]
        return same[0] if same else None

    def _unload_all(self, *slots: Slot) -> None:
        """Unload models, which are loaded again when needed."""
        for slot in self._models.keys() & set(slots):
            del self._models[slot]
            self._seats[slot] = self._seats[slot].model_copy(update={"resident": False})
            release_memory()

    @contextmanager
    def _report_models(self, slots: tuple[Slot, ...] | list[Slot]) -> Iterator[None]:
        """Report the loaded models afterwards, also on errors. A side whose load failed has no model."""
        device = self._get_device()
        before = read_memory(device)
        try:
            yield
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they reference a partly loaded model
            raise
        finally:
            for slot in slots:
                if slot not in self._models:
                    self._seats.pop(slot, None)
            release_memory()
            after = read_memory(self._get_device() or device)
            seats = dict(self._seats)
            self.tell(ModelsChanged(seats=seats, together=not self._note, note=self._note, before=before, after=after))

    def _get_device(self) -> str:
        return next((str(model.device) for model in self._models.values()), "")

    @contextmanager
    def _report_errors(self, work: int, slot: Slot) -> Iterator[None]:
        """Report an error of one side without affecting the other."""
        try:
            yield
        except LSPrismError as error:
            self.tell(Failed(work=work, slot=slot, message=error.message, hint=error.hint))
        except Exception as error:  # anything that a model's own code raises, including out-of-memory errors
            message = f"{type(error).__name__}: {error}".partition("\n")[0]
            self.tell(Failed(work=work, slot=slot, message=message, hint="Unload a model, or choose another dtype."))
