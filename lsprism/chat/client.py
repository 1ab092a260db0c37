"""Client of the worker: starts it on demand, receives its events, and tracks the progress of each request."""

import atexit
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ValidationError

import lsprism
from lsprism.chat.conversation import ChatAnswer
from lsprism.chat.messages import (
    SLOTS,
    Ended,
    Failed,
    Generate,
    Load,
    LoadedSlot,
    Message,
    ModelRequest,
    ModelsChanged,
    Slot,
    Stop,
    TaskStarted,
    TokenChunk,
    Unload,
    WorkerEvent,
    WorkerMemory,
    read_event,
)
from lsprism.errors import WorkError
from lsprism.specs import GenerateSpec

PROGRAM = (sys.executable, "-P", "-m", "lsprism.chat.worker")
PATIENCE_S = 6.0  # time to react to a stop before the worker is killed
ALIVE_S = 1.0  # longest interval between two items of Work.watch
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
STARTING, WAITING = "starting the model worker", "waiting for another request"


@dataclass(frozen=True)
class ChatProgress:
    """The state of a request at one moment."""

    what: str
    slot: Slot | None = None
    answers: Mapping[Slot, ChatAnswer] = field(default_factory=dict)
    failure: str = ""  # error of the whole request, not of one side
    ended: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class LoadedModels:
    """The loaded models, and the effect of the last change on memory."""

    seats: Mapping[Slot, LoadedSlot] = field(default_factory=dict)
    together: bool = True
    note: str = ""
    before: WorkerMemory | None = None
    after: WorkerMemory | None = None

    @property
    def same_tokens(self) -> bool:
        """Whether both sides have the same tokenizer."""
        return len({seat.portrait.tokenizer_sha256 for seat in self.seats.values()}) == 1


class ChatTask:
    """A request in progress: answering, loading or unloading."""

    def __init__(self, number: int, slots: Sequence[Slot], what: str, changed: threading.Condition) -> None:
        self.number, self.begun = number, False
        self.progress = ChatProgress(what, answers={slot: ChatAnswer() for slot in slots})
        self._changed = changed

    def iter_progress(self, every_s: float = 0.1) -> Iterator[ChatProgress]:
        """Yield the progress until it has ended, at most every `every_s` and at least every ALIVE_S seconds.

        Yields even without changes, so that a reader that has gone away is noticed.
        """
        seen = self.progress
        yield seen
        while not seen.ended:
            time.sleep(every_s)
            seen = self._wait_for_change(seen)
            yield seen

    def wait(self) -> ChatProgress:
        """Wait for the end. Raises WorkError if the whole request failed; an error of one side is in its answer."""
        *_, last = self.iter_progress()
        if last.failure:
            raise WorkError(last.failure)
        return last

    def _wait_for_change(self, seen: ChatProgress) -> ChatProgress:
        with self._changed:
            self._changed.wait_for(lambda: self.progress is not seen, timeout=ALIVE_S)
            return self.progress


class ChatClient:
    """Chat with two models. Thread-safe; requests are processed in order."""

    def __init__(self, program: Sequence[str] = PROGRAM) -> None:
        self._program = program
        self._changed = threading.Condition(threading.RLock())  # guards all below
        self._process: subprocess.Popen | None = None
        self._open: dict[int, ChatTask] = {}
        self._count = 0
        self._reason = ""  # why this client has killed the process
        self.seating = LoadedModels()
        atexit.register(self.close)

    def load(self, seats: Mapping[Slot, ModelRequest]) -> ChatTask:
        return self._start_task(list(seats), Load, seats=dict(seats))

    def unload(self, *slots: Slot) -> ChatTask:
        return self._start_task((), Unload, slots=slots or SLOTS)

    def generate(
        self, seats: Mapping[Slot, ModelRequest], prompts: Mapping[Slot, str | list[Message]], spec: GenerateSpec
    ) -> ChatTask:
        """Let each side answer its prompt: messages by its chat template, a text as a plain completion.

        A model that is not in memory is loaded first.
        """
        return self._start_task(list(prompts), Generate, seats=dict(seats), prompts=dict(prompts), spec=spec)

    def stop(self, work: ChatTask) -> None:
        """Stop a request. One that has not started ends at once; if it does not react in time, the worker is killed."""
        with self._changed:
            if work.progress.ended or self._process is None:
                return
            self._send(Stop(work=work.number))
            if not work.begun:
                self._close(work, stopped=True)
                return self._changed.notify_all()
            timer = threading.Timer(PATIENCE_S, self._kill_worker, [work, self._process])
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """End the worker; the next request starts another one."""
        self._kill("The model worker was closed.")

    def _start_task(
        self, answering: Sequence[Slot], kind: type[Load] | type[Unload] | type[Generate], **fields: object
    ) -> ChatTask:
        with self._changed:
            self._count += 1
            command = kind(work=self._count, **fields)
            what = WAITING if self._open else STARTING if self._process is None else "starting"
            work = ChatTask(self._count, answering, what, self._changed)
            self._start()
            self._open[work.number] = work
            self._send(command)
        return work

    def _start(self) -> None:
        if self._process is not None:
            return
        paths = [str(Path(lsprism.__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join(paths)}
        try:
            process = subprocess.Popen(
                self._program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
            )
        except OSError as error:
            reason = f"The model worker cannot be started: {error.strerror or error}."
            raise WorkError(reason, "Close other programs and try again.") from error
        self._process, self._reason = process, ""
        threading.Thread(target=self._read_events, args=[process], daemon=True, name="lsprism-talk").start()

    def _send(self, command: BaseModel) -> None:
        with suppress(OSError):  # it has just ended, which `_read_events` reports
            assert self._process is not None and self._process.stdin is not None
            self._process.stdin.write(command.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()

    def _read_events(self, process: subprocess.Popen) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValidationError):  # truncated by the end of the process
                self._handle_event(read_event(line))
        code = process.wait()
        with self._changed:
            if self._process is process:
                self._process = None
            self.seating = LoadedModels()
            for work in list(self._open.values()):
                self._close(work, failure=self._reason or _explain_exit(code))
            self._changed.notify_all()

    def _handle_event(self, news: WorkerEvent) -> None:
        with self._changed:
            if isinstance(news, ModelsChanged):
                told = {name: getattr(news, name) for name in ("seats", "together", "note", "before", "after")}
                self.seating = LoadedModels(**told)
            elif (work := self._open.get(news.work)) is not None:
                work.begun = True
                if isinstance(news, Ended):
                    self._close(work, stopped=news.stopped)
                else:
                    work.progress = _apply_event(work.progress, news)
            self._changed.notify_all()

    def _close(self, work: ChatTask, failure: str = "", stopped: bool = False) -> None:
        work.progress = replace(work.progress, ended=True, stopped=stopped, failure=failure)
        self._open.pop(work.number)

    def _kill_worker(self, work: ChatTask, process: subprocess.Popen) -> None:
        if not work.progress.ended and self._process is process:
            self._kill("It did not stop in time, so the model worker was ended. Both models have to be loaded again.")

    def _kill(self, reason: str) -> None:
        with self._changed:
            process, self._reason = self._process, reason
        if process is not None:
            process.kill()
            process.wait()


def _apply_event(progress: ChatProgress, news: TaskStarted | TokenChunk | Failed) -> ChatProgress:
    if isinstance(news, TaskStarted):
        return replace(progress, what=news.what, slot=news.slot)
    if news.slot is None:
        return replace(progress, failure=f"{news.message} {news.hint}".strip())
    before = progress.answers.get(news.slot, ChatAnswer())
    if isinstance(news, TokenChunk):
        answer = before.add_chunk(news)
    else:
        answer = replace(before, reason="failed", failure=f"{news.message} {news.hint}".strip())
    return replace(progress, answers={**progress.answers, news.slot: answer})


def _explain_exit(code: int) -> str:
    """Explain the exit code of a worker that this client has not ended."""
    if code == -9:
        return "The model worker was killed by the system, probably out of memory. Choose smaller models."
    return f"The model worker ended with code {code}; see the terminal. Send another prompt to restart it."
