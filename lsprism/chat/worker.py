"""python -m lsprism.chat.worker: the process that owns the models. Reads commands and writes events as JSON lines.

All work is done on the main thread; a second thread reads commands, so that a stop takes effect at once. The process
ends when its input is closed, so it does not outlive its parent.
"""

import _thread
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pydantic import BaseModel

from lsprism.chat.messages import Command, Ended, Generate, Load, Stop, Unload, read_command

if TYPE_CHECKING:
    from lsprism.chat.worker_engine import Engine


class CommandQueue:
    """The command queue. Stops are received on another thread while the main one works."""

    def __init__(self) -> None:
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._stops: dict[int, threading.Event] = {}
        self._current = -1  # number of the current request
        self._breakable = False  # used only on the main thread, which also handles the signal

    def read_commands(self) -> None:
        """Read commands until the input is closed, then exit."""
        for line in sys.stdin.buffer:
            command = read_command(line)
            if isinstance(command, Stop):
                self.stop_of(command.work).set()
                _thread.interrupt_main()
            else:
                self.commands.put(command)
        os._exit(0)

    def next_command(self) -> tuple[Command, threading.Event]:
        """The next command, and the event that stops it."""
        command = self.commands.get()
        self._current = command.work
        return command, self.stop_of(command.work)

    def stop_of(self, work: int) -> threading.Event:
        return self._stops.setdefault(work, threading.Event())

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside the `with`, a stop raises KeyboardInterrupt on the main thread; elsewhere it only sets the event."""
        self._breakable = True
        try:
            self.interrupt()  # a stop may already be set
            yield
        finally:
            self._breakable = False

    def interrupt(self, *_: object) -> None:
        """SIGINT handler: from a stop, or from Ctrl-C in the terminal, which the parent process handles."""
        if self._breakable and self.stop_of(self._current).is_set():
            self._breakable = False
            raise KeyboardInterrupt

    def remove(self, work: int) -> None:
        self._stops.pop(work, None)


def main() -> None:
    sink = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keep output of libraries out of the event stream
    inbox = CommandQueue()
    signal.signal(signal.SIGINT, inbox.interrupt)
    threading.Thread(target=inbox.read_commands, daemon=True).start()

    def send_event(news: BaseModel) -> None:
        sink.write(news.model_dump_json() + "\n")
        sink.flush()

    from lsprism.chat.worker_engine import Engine

    engine = Engine(send_event, inbox.interruptible)
    while True:
        command, stop = inbox.next_command()
        with suppress(KeyboardInterrupt):  # a canceled load, which the engine has already reported
            _run_command(engine, command, stop)
        send_event(Ended(work=command.work, stopped=stop.is_set()))
        inbox.remove(command.work)


def _run_command(engine: "Engine", command: Command, stop: threading.Event) -> None:
    if stop.is_set():
        return
    match command:
        case Load():
            engine.load(command)
        case Generate():
            engine.generate(command, stop)
        case Unload():
            engine.unload(command)


if __name__ == "__main__":
    main()
