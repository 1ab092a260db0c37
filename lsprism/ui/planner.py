"""Plans for the form, made by one small child process: the dashboard itself never loads torch for them.

    parent -> child   one JSON line: {"spec": {...}, "token": "..."}
                      or {"device": "cuda:0"}
    child -> parent   one JSON line: {"plan": {...}} or {"free_bytes": ...}, or {"message": "...", "hint": "..."}

The child ends after IDLE_S without a question, or with its parent; the next question starts another.
"""

import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import lsprism
from lsprism.errors import LSPrismError, RequestError, WorkError
from lsprism.records.model_plan import Plan
from lsprism.specs import PlanSpec
from lsprism.ui.texts import compress as texts

IDLE_S = 300.0
KEPT = 64  # plans in the cache


class Planner:
    """Answers `plan(spec)`. Thread-safe; one question at a time."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Plan] = OrderedDict()

    def plan(self, spec: PlanSpec, token: str = "", *, finished: int = 0) -> Plan:
        """The plan of a compression; RequestError if it is not possible. `token` is passed to the child only.

        Plans are cached unless a token was given, since access may be withdrawn, and by the number of `finished` runs,
        since every finished run improves the predicted errors.
        """
        said = spec.model_dump_json()
        key = f"{finished} {said}"
        with self._lock:
            if key in self._known and not token:
                self._known.move_to_end(key)
                return self._known[key]
            answer = self._request({"spec": json.loads(said), "token": token})
            self._known[key] = plan = Plan.model_validate(answer["plan"])
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            return plan

    def get_free_bytes(self, device: str) -> int | None:
        """Free bytes on a CUDA device; None for any other device."""
        if not device.startswith("cuda"):
            return None
        with self._lock:
            return self._request({"device": device})["free_bytes"]

    def start(self) -> None:
        """Start the child in the background so that the first answer is quick."""
        threading.Thread(target=self._start, daemon=True, name="lsprism-planner").start()

    def close(self) -> None:
        with self._lock:
            if self._child is not None:
                self._child.kill()
                self._child.wait()

    def _start(self) -> None:
        with self._lock:
            self._get_child()

    def _request(self, question: dict) -> dict:
        try:
            answer = json.loads(self._send(json.dumps(question)))
        except (OSError, ValueError) as error:  # the child ended, for example out of memory
            self._child = None
            raise WorkError(*texts.ESTIMATE_FAILED) from error
        if "message" in answer:
            raise RequestError(answer["message"], answer["hint"])
        return answer

    def _send(self, question: str) -> str:
        child = self._get_child()
        try:
            _send(child, question)
        except BrokenPipeError:  # it became idle and ended at this moment
            self._child = None
            child = self._get_child()
            _send(child, question)
        assert child.stdout is not None
        return child.stdout.readline()

    def _get_child(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            package = str(Path(lsprism.__file__).resolve().parents[1])
            paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "lsprism.ui.planner"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
            )
        return self._child


def _send(child: subprocess.Popen[str], question: str) -> None:
    assert child.stdin is not None
    child.stdin.write(question + "\n")
    child.stdin.flush()


def _parse_answer(line: str) -> dict:
    from lsprism import api
    from lsprism.evaluation.model_pair import get_free_bytes

    asked = json.loads(line)
    if "device" in asked:
        return {"free_bytes": get_free_bytes(asked["device"])}
    if asked["token"]:
        os.environ["HF_TOKEN"] = asked["token"]
    try:
        return {"plan": json.loads(api.plan_from_spec(PlanSpec(**asked["spec"])).model_dump_json())}
    except LSPrismError as error:
        return {"message": error.message, "hint": error.hint}
    finally:
        if asked["token"]:
            os.environ.pop("HF_TOKEN", None)


def _run_child() -> None:
    """The child process. Output of libraries must not mix with the answers."""
    out, sys.stdout = sys.stdout, sys.stderr
    from lsprism import api  # noqa: F401 - load it now, not with the first question

    while True:
        rest = threading.Timer(IDLE_S, os._exit, (0,))
        rest.daemon = True
        rest.start()
        line = sys.stdin.readline()
        rest.cancel()
        if not line:
            return
        out.write(json.dumps(_parse_answer(line)) + "\n")
        out.flush()


if __name__ == "__main__":
    _run_child()
