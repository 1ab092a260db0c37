"""Commands to the worker and events from it, one line of JSON each. Times in seconds end in `_s`."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from lsprism.records.model_plan import Record
from lsprism.specs import DEVICE, DtypeName, GenerateSpec, Request, Text

Slot = Literal["left", "right"]
SLOTS: tuple[Slot, Slot] = ("left", "right")
Message = dict[str, str]  # "role" and "content"
Reason = Literal["eos", "length", "stopped", "failed"]


class ModelRequest(Request):
    """A model, and how to load it."""

    model_id: Text = Field(min_length=1, description="artifact, Hub id, folder, .gguf file, or demo")
    device: str = Field("auto", pattern=DEVICE, description="auto, cpu, cuda or cuda:N")
    dtype: DtypeName = Field("auto", description="auto: the model's own")


class Load(Request):
    kind: Literal["load"] = "load"
    work: int
    seats: dict[Slot, ModelRequest]


class Unload(Request):
    kind: Literal["unload"] = "unload"
    work: int
    slots: tuple[Slot, ...]


class Generate(Request):
    """Answer prompts. A model that is not in memory is loaded first."""

    kind: Literal["ask"] = "ask"
    work: int
    seats: dict[Slot, ModelRequest]
    prompts: dict[Slot, str | list[Message]]  # text: plain completion; messages: chat template
    spec: GenerateSpec


class Stop(Request):
    """Stop a request, whether it has started or not."""

    kind: Literal["stop"] = "stop"
    work: int


class WorkerMemory(Record):
    """Memory use of the worker, in bytes."""

    taken: int  # resident memory of the process; on CUDA the device memory reserved by PyTorch
    free: int  # free memory on the device of the models


class ModelSummary(Record):
    """A loaded model, computed from its modules and not from its files."""

    model_id: str
    label: str  # 'hybrid 0.5', or the name of a dense model
    kept_parameters: int
    model_parameters: int  # before compression; tied weights count once
    zeros: float | None  # fraction of zero entries in the blocks' layers; None: all are purely low-rank
    mean_rank: float | None  # over the layers with low-rank factors; None: no such layers
    packed_layers: int
    resident_bytes: int  # all tensors
    dtype: str
    device: str
    chats: bool  # has a chat template; otherwise messages are completed as plain text
    weights_sha256: str  # of all tensors in memory
    tokenizer_sha256: str  # of the vocabulary


class LoadedSlot(Record):
    """The model of one side. `resident` is False while it is swapped out because both do not fit into memory."""

    wanted: ModelRequest
    portrait: ModelSummary
    resident: bool
    seconds: float  # loading time


class AnswerTiming(Record):
    """Timing of one answer, excluding the time of the other side."""

    tokens: int = 0
    first_token_s: float | None = None
    tokens_per_s: float | None = None


class TaskStarted(Record):
    """The worker has started a step of a request, described by `what`."""

    kind: Literal["began"] = "began"
    work: int
    slot: Slot | None = None
    what: str = ""


class ModelsChanged(Record):
    """The loaded models after a load or unload, with the memory use before and after it.

    `together` is False if both do not fit into memory; then `note` explains the sizes.
    """

    kind: Literal["seats"] = "seats"
    seats: dict[Slot, LoadedSlot]
    together: bool
    note: str
    before: WorkerMemory
    after: WorkerMemory


class TokenChunk(Record):
    """New tokens of one side, with the text of each (which may be empty)."""

    kind: Literal["words"] = "words"
    work: int
    slot: Slot
    tokens: list[int | None]  # None: stopped before this one was computed
    texts: list[str]
    timing: AnswerTiming
    reason: Reason | None = None  # in the last event of an answer


class Failed(Record):
    """An error of one side, or of the whole request if `slot` is None."""

    kind: Literal["failed"] = "failed"
    work: int
    slot: Slot | None = None
    message: str
    hint: str = ""


class Ended(Record):
    kind: Literal["ended"] = "ended"
    work: int
    stopped: bool = False


Command = Annotated[Load | Unload | Generate | Stop, Field(discriminator="kind")]
WorkerEvent = Annotated[TaskStarted | ModelsChanged | TokenChunk | Failed | Ended, Field(discriminator="kind")]
read_command = TypeAdapter(Command).validate_json
read_event = TypeAdapter(WorkerEvent).validate_json
