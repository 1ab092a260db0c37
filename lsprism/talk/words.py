"""What is asked of the worker and what it answers, a line of JSON each. Bytes are bytes, seconds end in `_s`."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from lsprism.reports import Record
from lsprism.specs import DEVICE, DtypeName, GenerateSpec, Request, Text

Slot = Literal["left", "right"]
SLOTS: tuple[Slot, Slot] = ("left", "right")
Message = dict[str, str]  # "role" and "content"
Reason = Literal["eos", "length", "stopped", "failed"]


class Wanted(Request):
    """A model, and how it is to be loaded."""

    model_id: Text = Field(min_length=1, description="artifact, hub id, folder, .gguf file, or demo")
    device: str = Field("auto", pattern=DEVICE, description="auto, cpu, cuda or cuda:N")
    dtype: DtypeName = Field("auto", description="auto: the model's own")


class Load(Request):
    kind: Literal["load"] = "load"
    work: int
    seats: dict[Slot, Wanted]


class Unload(Request):
    kind: Literal["unload"] = "unload"
    work: int
    slots: tuple[Slot, ...]


class Ask(Request):
    """Answer; a side whose model is not in memory is loaded first."""

    kind: Literal["ask"] = "ask"
    work: int
    seats: dict[Slot, Wanted]
    prompts: dict[Slot, str | list[Message]]  # a text is completed, messages are answered
    spec: GenerateSpec


class Stop(Request):
    """The work of this number, whether it has begun or not."""

    kind: Literal["stop"] = "stop"
    work: int


class Memory(Record):
    """Of the worker, at one moment."""

    taken: int  # resident bytes of the process; on CUDA what PyTorch has taken of the device
    free: int  # bytes that are free where the models are


class Portrait(Record):
    """What a model in memory is, counted from the module itself and not from what its files say."""

    model_id: str
    label: str  # 'hybrid 0.5', or the name of a dense model
    kept_parameters: int
    model_parameters: int  # before compression; tied weights once
    zeros: float | None  # share of the places in the blocks' layers that hold no number; None: factors only
    mean_rank: float | None  # over the layers that have factors; None: none has
    packed_layers: int
    resident_bytes: int  # of all tensors
    dtype: str
    device: str
    chats: bool  # it has a chat template; else messages are completed as plain text
    weights_sha256: str  # of all tensors in memory
    tokenizer_sha256: str  # equal ones number the same tokens


class Seat(Record):
    """One side's place, taken. `resident` False: both do not fit, it is loaded again when it answers."""

    wanted: Wanted
    portrait: Portrait
    resident: bool
    seconds: float  # that loading took


class Timing(Record):
    """What one answer has cost its side alone; the other side's time does not count."""

    tokens: int = 0
    first_token_s: float | None = None
    tokens_per_s: float | None = None


class Began(Record):
    """The worker turns to a piece of work; `what` says to what part of it."""

    kind: Literal["began"] = "began"
    work: int
    slot: Slot | None = None
    what: str = ""


class Seats(Record):
    """Who sits where after something was loaded or unloaded, and the memory before that and after it.

    `together` False: both do not fit into memory, and `note` has the arithmetic.
    """

    kind: Literal["seats"] = "seats"
    seats: dict[Slot, Seat]
    together: bool
    note: str
    before: Memory
    after: Memory


class Words(Record):
    """Tokens that one side has added, with the text that each brought (which may be empty)."""

    kind: Literal["words"] = "words"
    work: int
    slot: Slot
    tokens: list[int | None]  # None: stopped before this one was computed
    texts: list[str]
    timing: Timing
    reason: Reason | None = None  # with the last words


class Failed(Record):
    """One side could not, or all of the work where no slot is named."""

    kind: Literal["failed"] = "failed"
    work: int
    slot: Slot | None = None
    message: str
    hint: str = ""


class Ended(Record):
    kind: Literal["ended"] = "ended"
    work: int
    stopped: bool = False


Command = Annotated[Load | Unload | Ask | Stop, Field(discriminator="kind")]
News = Annotated[Began | Seats | Words | Failed | Ended, Field(discriminator="kind")]
read_command = TypeAdapter(Command).validate_json
read_news = TypeAdapter(News).validate_json
