"""The walk passes the model's own arguments to every block, one block at a time, or refuses the model."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lsprism.calibration import blockwise as walking
from lsprism.calibration.blockwise import BlockCall, capture_block_inputs
from lsprism.errors import NumericError, SourceError

CPU = torch.device("cpu")
WIDTH = 4


class Block(nn.Module):
    """y = answer(x + W x)."""

    answer = staticmethod(lambda y: y)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.calls = []

    def forward(self, hidden_states, mask=None, **others):
        self.calls.append((mask, others))
        return self.answer(hidden_states + self.linear(hidden_states))


class Model(nn.Module):
    """An embedding and three blocks; subclasses change what happens between them."""

    block = Block

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(10, WIDTH)
        self.blocks = nn.ModuleList(self.block() for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        self.ran_to_the_end = 0

    @property
    def base_model(self):
        return self

    def forward(self, input_ids, use_cache):
        assert use_cache is False
        hidden = self.embedding(input_ids)
        for number, block in enumerate(self.blocks):
            hidden = self.step(number, block, hidden)
        self.ran_to_the_end += 1
        return SimpleNamespace(last=self.norm(hidden))

    def step(self, number, block, hidden):
        return block(hidden, torch.full((1, hidden.shape[1]), float(number)), scale=number)


TOKENS = torch.arange(10).repeat(5, 1)[:, :6]


@pytest.fixture(autouse=True)
def two_samples_a_batch(monkeypatch):
    monkeypatch.setattr(walking, "BATCH_TOKENS", 2 * TOKENS.shape[1])


def walk_through(model) -> walking.BlockwiseForward:
    walk = capture_block_inputs(model, model.blocks, TOKENS, CPU)
    for index, block in enumerate(model.blocks):
        list(walk.advance(index, block))
    return walk


def own(model) -> torch.Tensor:
    """The hidden states after the last block, by calling all blocks in sequence."""
    hidden = model.embedding(TOKENS)
    for number, block in enumerate(model.blocks):
        hidden = model.step(number, block, hidden)
        hidden = hidden[0] if isinstance(hidden, tuple | list) else hidden
    return hidden


@torch.no_grad()
def test_the_walk_gives_the_hidden_states_of_the_model():
    model = Model()
    walk = walk_through(model)
    assert [len(hidden) for hidden in walk.hidden] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(walk.hidden), own(model))


@torch.no_grad()
@pytest.mark.parametrize("wrap", [lambda y: (y,), lambda y: (y, None), lambda y: [y]], ids=["1", "2", "list"])
def test_blocks_may_return_more_than_a_tensor(wrap):
    class Wrapped(Block):
        answer = staticmethod(wrap)

    class Unwrapping(Model):
        block = Wrapped

        def step(self, number, block, hidden):
            return super().step(number, block, hidden)[0]

    model = Unwrapping()
    torch.testing.assert_close(torch.cat(walk_through(model).hidden), own(model))


@torch.no_grad()
def test_hidden_states_may_be_passed_by_keyword():
    class Named(Model):
        def step(self, number, block, hidden):
            return block(mask=None, hidden_states=hidden)

    model = Named()
    assert capture_block_inputs(model, model.blocks, TOKENS, CPU).calls[0][0].keyword == "hidden_states"
    torch.testing.assert_close(torch.cat(walk_through(model).hidden), own(model))


def test_equal_arguments_of_batches_are_stored_once():
    model = Model()
    walk = capture_block_inputs(model, model.blocks, TOKENS, CPU)
    for number, calls in enumerate(walk.calls):
        masks = [call.args[0] for call in calls]
        assert all(torch.equal(mask, torch.full((1, 6), float(number))) for mask in masks)
        assert len({mask.data_ptr() for mask in masks}) == 1
        assert [call.kwargs for call in calls] == [{"scale": number}] * 3


def test_different_arguments_of_batches_are_stored_separately():
    class Differing(Model):
        def step(self, number, block, hidden):
            return block(hidden, hidden.mean(-1), pair=(hidden.sum(-1), number))

    model = Differing()
    walk = capture_block_inputs(model, model.blocks, TOKENS.clone().random_(10), CPU)
    first, second, _ = walk.calls[1]
    assert not torch.equal(first.args[0], second.args[0])
    assert not torch.equal(first.kwargs["pair"][0], second.kwargs["pair"][0])
    assert torch.equal(second.args[0], walk.hidden[1].mean(-1))


@torch.no_grad()
def test_a_block_may_modify_its_input_in_place():
    class InPlace(Block):
        def forward(self, hidden_states, mask=None, **others):
            return hidden_states.add_(self.linear(hidden_states))

    class Model2(Model):
        block = InPlace

    model = Model2()
    walk, wanted = capture_block_inputs(model, model.blocks, TOKENS, CPU), model.embedding(TOKENS)
    assert torch.equal(torch.cat(walk.hidden), wanted)
    stats = {}
    list(walk.collect_stats(0, model.blocks[0], {"linear": model.blocks[0].linear}, stats, gram=True))
    assert torch.equal(torch.cat(walk.hidden), wanted)
    x = wanted.reshape(-1, WIDTH)
    torch.testing.assert_close(stats["linear"].gram, x.T @ x)


def test_the_model_is_unchanged_afterwards():
    model = Model()
    capture_block_inputs(model, model.blocks, TOKENS, CPU)
    assert not any("forward" in vars(block) for block in model.blocks)
    assert len(model.blocks[0].calls) == 1 and not model.blocks[1].calls  # only the first one ran, once


@torch.no_grad()
def test_a_layer_without_tokens_is_measured_by_its_weights():
    model = Model()
    block = model.blocks[0]
    block.expert = nn.Linear(WIDTH, 2)
    walk, stats = capture_block_inputs(model, model.blocks, TOKENS, CPU), {}
    list(walk.collect_stats(0, block, {"linear": block.linear, "expert": block.expert}, stats, gram=True))
    assert stats["linear"].tokens == TOKENS.numel() and stats["expert"].tokens == 0
    assert torch.equal(stats["expert"].gram, torch.eye(WIDTH)) and torch.equal(stats["expert"].norms, torch.ones(WIDTH))


def test_nan_is_reported_with_its_block():
    model = Model()
    walk = capture_block_inputs(model, model.blocks, TOKENS, CPU)
    model.blocks[1].linear.weight.data[0, 0] = float("inf")
    list(walk.advance(0, model.blocks[0]))
    with pytest.raises(NumericError, match="Block 1"):
        list(walk.advance(1, model.blocks[1]))


# --- unsupported models -----------------------------------------------------------------------------------------------


def refused(step=None, forward=None) -> str:
    kind = type("Odd", (Model,), {key: f for key, f in {"step": step, "forward": forward}.items() if f})
    model = kind()
    with pytest.raises(SourceError) as error:
        capture_block_inputs(model, model.blocks, TOKENS, CPU)
    assert error.value.message.startswith("Odd ") and error.value.hint
    assert not any("forward" in vars(block) for block in model.blocks)
    return error.value.message


def test_computation_between_the_blocks_is_refused():
    assert "changes the hidden states" in refused(lambda self, number, block, hidden: block(hidden) * 2)


def test_skipped_blocks_are_refused():
    message = refused(lambda self, number, block, hidden: block(hidden) if number < 2 else hidden)
    assert "runs only 2 of its 3 blocks" in message


def test_blocks_out_of_order_are_refused():
    assert "in order" in refused(lambda self, number, block, hidden: self.blocks[2 - number](hidden))


def test_running_the_blocks_twice_is_refused():
    def forward(self, input_ids, use_cache):
        hidden = self.embedding(input_ids)
        for block in [*self.blocks, *self.blocks]:
            hidden = block(hidden)
        return hidden

    class Outer(Model):  # a base model of its own: the first batch runs to its end
        base_model = property(lambda self: lambda **tokens: forward(self, **tokens))

    model = Outer()
    with pytest.raises(SourceError, match="once each"):
        capture_block_inputs(model, model.blocks, TOKENS, CPU)


def test_blocks_without_hidden_states_are_refused():
    assert "not pass hidden states" in refused(lambda self, number, block, hidden: block(x=hidden))


def test_results_passed_between_blocks_are_refused():
    class Pair(Block):
        answer = staticmethod(lambda y: (y, y.sum()))

    class Chained(Model):
        block = Pair
        extra = None

        def step(self, number, block, hidden):
            hidden, self.extra = block(hidden, self.extra)
            return hidden

    model = Chained()
    with pytest.raises(SourceError, match="passes results of one block to another"):
        capture_block_inputs(model, model.blocks, TOKENS, CPU)


def test_an_empty_shared_mapping_makes_a_walk_stateful():
    class Shared(Model):
        def forward(self, input_ids, use_cache):
            self.shared = {}
            return super().forward(input_ids, use_cache)

        def step(self, number, block, hidden):
            return block(hidden, keys=self.shared)

    model = Shared()
    assert capture_block_inputs(model, model.blocks, TOKENS, CPU).stateful
    model = Model()
    assert not capture_block_inputs(model, model.blocks, TOKENS, CPU).stateful


def test_a_call_passes_hidden_states_as_the_model_does():
    hidden = torch.ones(1)
    assert BlockCall((2,), {"c": 3}, None).compute_output(lambda *a, **k: (a, k), hidden) == ((hidden, 2), {"c": 3})
    assert BlockCall((), {"c": 3}, "x").compute_output(lambda *a, **k: (a, k), hidden) == ((), {"x": hidden, "c": 3})
    assert BlockCall((), {}, None).run(lambda h: (h, "more"), hidden) is hidden


@torch.no_grad()
def test_the_dense_model_is_tracked_separately():
    model = Model()
    walk = capture_block_inputs(model, model.blocks, TOKENS, CPU)
    walk.track_dense()
    wanted = own(model)
    for index, block in enumerate(model.blocks):
        list(walk.advance_dense(index, block))
        block.linear.weight.zero_()
        list(walk.advance(index, block))
    torch.testing.assert_close(torch.cat(walk.dense), wanted)
    assert not torch.allclose(torch.cat(walk.hidden), wanted)
    streams = walk.streams
    walk.streams = [tensor + 1 for tensor in streams]
    assert torch.equal(walk.dense[-1], streams[-1] + 1) and torch.equal(walk.hidden[0], streams[0] + 1)


def test_the_dense_model_cannot_be_tracked_if_blocks_share_state():
    with pytest.raises(SourceError, match="share state"):
        walking.BlockwiseForward(CPU, stateful=True).track_dense()


def test_the_batch_size_can_be_reduced():
    model = Model()
    assert [
        len(hidden) for hidden in capture_block_inputs(model, model.blocks, TOKENS, CPU, TOKENS.shape[1]).hidden
    ] == [1] * 5
