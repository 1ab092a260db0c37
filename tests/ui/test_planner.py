"""Plans from the child process: the same as those of the API, refusals as they are, and no end when it is killed."""

import json

import pytest
import torch

from lsprism.errors import RequestError, WorkError
from lsprism.specs import PlanSpec
from lsprism.ui.planner import Planner, _parse_answer


class FakeChild:
    """Answers what it was given; `poll` says that it lives."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []
        self.stdin = self.stdout = self

    def poll(self):
        return None

    def write(self, line):
        self.asked.append(json.loads(line))

    def flush(self):
        pass

    def readline(self):
        return self.answers.pop(0)


def test_a_refusal_comes_through_with_its_hint():
    planner = Planner()
    planner._child = FakeChild([json.dumps({"message": "No such model.", "hint": "Choose another."})])
    with pytest.raises(RequestError) as refused:
        planner.plan(PlanSpec(model_id="gone"))
    assert (refused.value.message, refused.value.hint) == ("No such model.", "Choose another.")


def test_a_child_that_ends_while_it_is_asked_is_forgotten():
    planner = Planner()
    planner._child = FakeChild([""])
    with pytest.raises(WorkError):
        planner.plan(PlanSpec(model_id="demo"))
    assert planner._child is None


def test_what_was_planned_is_remembered_unless_it_took_a_token_or_another_run_has_ended():
    from run_views import plan

    answer = json.dumps({"plan": json.loads(plan().model_dump_json())})
    planner, spec = Planner(), PlanSpec(model_id="demo")
    planner._child = child = FakeChild([answer] * 3)
    assert planner.plan(spec) is planner.plan(spec) and len(child.asked) == 1
    planner.plan(spec, "hf_secret")
    assert len(child.asked) == 2 and child.asked[1]["token"] == "hf_secret"
    planner.plan(spec, finished=1)
    assert len(child.asked) == 3


def test_only_a_card_is_asked_about_and_each_time_anew():
    planner = Planner()
    planner._child = child = FakeChild([json.dumps({"free_bytes": free}) for free in (5, 4)])
    assert planner.get_free_bytes("cpu") is None and not child.asked
    assert [planner.get_free_bytes("cuda:1"), planner.get_free_bytes("cuda:1")] == [5, 4]
    assert child.asked == [{"device": "cuda:1"}] * 2


def test_the_child_looks_at_the_card_itself(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 9) if device.index == 1 else (0, 9))
    assert _parse_answer('{"device": "cuda:1"}') == {"free_bytes": 7}


@pytest.mark.slow
def test_the_child_plans_as_the_api_does_and_is_started_anew(tiny_folder):
    from lsprism import api

    spec = PlanSpec(model_id=str(tiny_folder), sparsity=0.4)
    planner = Planner()
    try:
        assert planner.plan(spec) == api.plan_from_spec(spec)
        planner._child.kill()
        planner._child.wait()
        other = spec.model_copy(update={"sparsity": 0.3})
        assert planner.plan(other) == api.plan_from_spec(other)
        with pytest.raises(RequestError, match="nowhere"):
            planner.plan(PlanSpec(model_id="./nowhere"))
    finally:
        planner.close()
