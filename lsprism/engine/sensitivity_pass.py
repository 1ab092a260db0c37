"""Measurements that an allocation rule needs of every layer: one pass over the dense model, block by block.

As in a compression, the weights and input statistics of one block are in memory at a time. The result is a few numbers
per layer, which are cached: see calibration/sensitivity_cache.py.
"""

from collections.abc import Generator, Iterator
from functools import partial

from torch import Tensor, nn

from lsprism.allocation import RULES
from lsprism.allocation.layer_inputs import LayerInputs
from lsprism.calibration.blockwise import BlockwiseForward
from lsprism.calibration.output_change import BlockOutputChange
from lsprism.calibration.sensitivity_cache import SensitivityCache, open_sensitivity_cache
from lsprism.engine.blocks import BlockLoader
from lsprism.engine.layer import check_inputs, check_weight
from lsprism.engine.memory_estimate import translate_memory_errors, trim_heap
from lsprism.engine.plan import PreparedPlan
from lsprism.events import BlockClock, Event, Notice, Stage
from lsprism.method_catalog import get_method_info
from lsprism.methods import METHODS
from lsprism.methods.stats import InputStats
from lsprism.models.module_utils import get_weight
from lsprism.old_names import CACHED_AS
from lsprism.records.model_plan import Layer, LayerSensitivity
from lsprism.specs import PlanSpec


def measure_sensitivity(
    spec: PlanSpec, draft: PreparedPlan, tokens: Tensor
) -> Generator[Event, None, list[LayerSensitivity]]:
    """Return what the allocation rule of `spec` needs of every layer: from the cache, or by a pass over `tokens`.

    tokens [samples, length]. The pass saves its results after each block, so an interrupted pass is resumed.
    """
    if RULES[spec.rule].learns is None:
        return []
    place = _open_cache(spec, draft)
    count = len(draft.anatomy.sites)
    found = _match_prefix(place.read(), draft)
    if len(found) == count:
        yield Notice(text=f"Using cached layer measurements ({spec.rule}).")
        return found
    with translate_memory_errors():
        for item in _run_pass(spec, draft, tokens, len(found)):
            if isinstance(item, list):
                found += item
                place.write(found)
            else:
                yield item
    return found


def load_sensitivity(spec: PlanSpec, draft: PreparedPlan) -> list[LayerSensitivity]:
    """Return the cached measurements of all layers; empty unless they are complete."""
    found = _match_prefix(_open_cache(spec, draft).read(), draft)
    return found if len(found) == len(draft.anatomy.sites) else []


def _match_prefix(found: list[LayerSensitivity], draft: PreparedPlan) -> list[LayerSensitivity]:
    """Return `found` if its names are a prefix of the model's layer names, else an empty list."""
    names = [site.name for site in draft.anatomy.sites]
    return found if [traits.name for traits in found] == names[: len(found)] else []


def _open_cache(spec: PlanSpec, draft: PreparedPlan) -> SensitivityCache:
    rule = RULES[spec.rule]
    name = CACHED_AS.get(spec.rule, spec.rule)
    settings: dict[str, object] = {"rule": name, "dtype": draft.plan.dtype, "device": draft.device.type}
    if rule.by:
        method = rule.by(spec)
        settings |= {"method": method, "rank_share": spec.rank_share if get_method_info(method).low_rank else 0.0}
    inputs = rule.needs == "inputs"
    return open_sensitivity_cache(draft.plan.source, name, settings, spec.calibration if inputs else None)


def _run_pass(
    spec: PlanSpec, draft: PreparedPlan, tokens: Tensor, known_sites: int
) -> Iterator[Event | list[LayerSensitivity]]:
    """Yield events, and a list with the measurements of each block's layers. Skips the first `known_sites` layers."""
    rule = RULES[spec.rule]
    feed = BlockLoader(draft)
    clock = _make_clock(draft)
    tokens = tokens[: rule.samples]
    inputs = rule.needs == "inputs"
    detail = f", {tokens.shape[0]} x {tokens.shape[1]} tokens" if inputs else ""
    yield Stage(name="measure", detail=f"for the allocation ({spec.rule}): {draft.anatomy.count} blocks{detail}")
    walk = feed.start(tokens, rule.batch_tokens) if inputs else None
    for index in range(draft.anatomy.count):
        sites = draft.anatomy.get_block_layers(index)
        known_sites -= len(sites)
        if walk or known_sites < 0:
            block = feed.load(index)
            if known_sites < 0:
                yield from _measure_block(spec, draft, walk, index, block, clock)
            elif walk:
                for share in walk.advance(index, block):
                    yield clock.make_progress("measure", share)
            feed.release(index)
            trim_heap()
        clock.next_block()


def _make_clock(draft: PreparedPlan) -> BlockClock:
    """A clock whose remaining time includes the compression that follows."""
    count = draft.anatomy.count
    duration = draft.plan.duration
    if duration is None:
        return BlockClock(count)
    return BlockClock(count, predicted=duration.sensitivity / count, after=duration.blocks)


def _measure_block(
    spec: PlanSpec, draft: PreparedPlan, walk: BlockwiseForward | None, index: int, block: nn.Module, clock: BlockClock
) -> Iterator[Event | list[LayerSensitivity]]:
    """Yield events, then the measurements of one block, whose weights are loaded. Advances `walk` past the block."""
    rule = RULES[spec.rule]
    assert rule.learns is not None
    stats: dict[str, InputStats] = {}
    found: list[LayerSensitivity] = []
    method = METHODS[rule.by(spec)] if rule.by else None
    modules = {site.name: draft.model.get_submodule(site.name) for site in draft.anatomy.get_block_layers(index)}
    for name, module in modules.items():
        check_weight(name, module.get_parameter("weight"))
    harm = BlockOutputChange(walk, index, block) if walk and method else None
    if walk:
        gram = method is not None and method.needs_gram
        for share in walk.collect_stats(index, block, modules, stats, gram=gram, propagate=True):
            yield clock.make_progress("measure", share / 2)
        for name in modules:
            check_inputs(name, stats[name])
        walk.check_finite(index)
    if walk and harm:
        harm.set_reference(walk.hidden[0])
    inner = {name: name.removeprefix(f"{draft.anatomy.get_block_name(index)}.") for name in modules}
    sites = _sort_layers(draft.anatomy.get_block_layers(index), stats)
    for traits in rule.learns(
        [_make_layer_inputs(draft.model, site, stats.get(site.name), harm) for site in sites], spec
    ):
        trim_heap()
        found.append(traits)
        if harm:
            harm.mark_done([inner[traits.name] for traits in found], list(inner.values()))
        yield clock.make_progress("measure", 1 / 2 + len(found) / len(modules) / 2)
    if harm:
        harm.reset()
    known = {traits.name: traits for traits in found}
    yield [known[name] for name in modules]


def _sort_layers(sites: list[Layer], stats: dict[str, InputStats]) -> list[Layer]:
    """Layers that see only some tokens (experts) first, then the others in the order of execution."""
    every = max((seen.tokens for seen in stats.values()), default=0)
    reached = [name for name, seen in stats.items() if seen.tokens == every]
    return sorted(sites, key=lambda site: reached.index(site.name) if site.name in reached else -1)


def _make_layer_inputs(
    model: nn.Module, site: Layer, stats: InputStats | None, harm: BlockOutputChange | None
) -> LayerInputs:
    module = model.get_submodule(site.name)

    def measure_change(by: BlockOutputChange, weight: Tensor) -> float:
        return by.measure(module, weight.T if site.transposed else weight)

    return LayerInputs(site, get_weight(model, site), stats, partial(measure_change, harm) if harm else None)
