"""python -m lsprism.talk.worker: the process that owns the models; commands come in, news go out, a line of JSON each.

All work is done on the main thread; a thread beside it reads, so that a stop is heard at once. The process ends when
its input does, so it does not outlive whoever started it.
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

from lsprism.talk.words import Ask, Command, Ended, Load, Stop, Unload, read_command

if TYPE_CHECKING:
    from lsprism.talk.engine import Engine


class Inbox:
    """Commands in their order. Stops are heard on another thread, while the main one works."""

    def __init__(self) -> None:
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._stops: dict[int, threading.Event] = {}
        self._current = -1  # the work at hand
        self._breakable = False  # of the main thread alone, which handles the signal too

    def listen(self) -> None:
        """Read until the other end is closed."""
        for line in sys.stdin.buffer:
            command = read_command(line)
            if isinstance(command, Stop):
                self.stop_of(command.work).set()
                _thread.interrupt_main()
            else:
                self.commands.put(command)
        os._exit(0)

    def take(self) -> tuple[Command, threading.Event]:
        """The next command, and what says that it is to stop."""
        command = self.commands.get()
        self._current = command.work
        return command, self.stop_of(command.work)

    def stop_of(self, work: int) -> threading.Event:
        return self._stops.setdefault(work, threading.Event())

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Inside, a stop interrupts the main thread; elsewhere it waits until it is asked for."""
        self._breakable = True
        try:
            self.interrupt()  # the stop may have come before
            yield
        finally:
            self._breakable = False

    def interrupt(self, *_: object) -> None:
        """SIGINT: a stop, or Ctrl-C in the terminal, which is for whoever started this process."""
        if self._breakable and self.stop_of(self._current).is_set():
            self._breakable = False
            raise KeyboardInterrupt

    def forget(self, work: int) -> None:
        self._stops.pop(work, None)


def main() -> None:
    sink = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no news
    inbox = Inbox()
    signal.signal(signal.SIGINT, inbox.interrupt)
    threading.Thread(target=inbox.listen, daemon=True).start()

    def tell(news: BaseModel) -> None:
        sink.write(news.model_dump_json() + "\n")
        sink.flush()

    from lsprism.talk.engine import Engine

    engine = Engine(tell, inbox.breakable)
    while True:
        command, stop = inbox.take()
        with suppress(KeyboardInterrupt):  # a load was broken off, and the engine has told what is left
            _carry_out(engine, command, stop)
        tell(Ended(work=command.work, stopped=stop.is_set()))
        inbox.forget(command.work)


def _carry_out(engine: "Engine", command: Command, stop: threading.Event) -> None:
    if stop.is_set():
        return
    match command:
        case Load():
            engine.load(command)
        case Ask():
            engine.answer(command, stop)
        case Unload():
            engine.unload(command)


if __name__ == "__main__":
    main()
