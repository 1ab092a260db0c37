"""What a rule of the budgets must know of every site first: one pass over the dense model, a block at a time.

A block's weights and what its inputs leave behind are held together, as in a compression; what is kept of a site is a
few numbers. Learnt once, they lie in the cache: see calibration/known.py.
"""

from collections.abc import Generator, Iterator
from itertools import count

from torch import Tensor, nn

from lsprism.budgets import BUDGETS
from lsprism.budgets.seen import Seen
from lsprism.calibration.known import Known, known
from lsprism.calibration.walk import Walk
from lsprism.engine.blocks import BlockFeed
from lsprism.engine.memory import memory_errors
from lsprism.engine.plan import Draft
from lsprism.engine.site import check_weight
from lsprism.events import BlockClock, Event, Notice, Stage
from lsprism.methods import METHODS
from lsprism.methods.stats import InputStats
from lsprism.models.surgery import weight_of
from lsprism.reports import SiteTraits
from lsprism.specs import JOINED, PlanSpec


def learnt(spec: PlanSpec, draft: Draft, tokens: Tensor) -> Generator[Event, None, list[SiteTraits]]:
    """The traits of all sites that the rule of `spec` asks for: from the cache, or by a pass over `tokens`.

    tokens [samples, length]. A pass that is broken off leaves nothing.
    """
    if BUDGETS[spec.budget].learns is None:
        return []
    if found := known_traits(spec, draft):
        yield Notice(text=f"The budgets ({spec.budget}) are made of what is known of this model from an earlier run.")
        return found
    found = []
    with memory_errors():
        for item in _pass(spec, draft, tokens):
            if isinstance(item, SiteTraits):
                found.append(item)
            else:
                yield item
    _place(spec, draft).write(found)
    return found


def known_traits(spec: PlanSpec, draft: Draft) -> list[SiteTraits]:
    """Those of all sites that an earlier pass learnt; empty where there was none."""
    found = _place(spec, draft).read()
    return found if [traits.name for traits in found] == [site.name for site in draft.anatomy.sites] else []


def _place(spec: PlanSpec, draft: Draft) -> Known:
    settings = {"rule": spec.budget, "dtype": draft.plan.dtype, "device": draft.device.type}
    if spec.budget == "measured":
        settings |= {"method": spec.method, "rank_share": spec.rank_share if spec.method in JOINED else 0.0}
    inputs = BUDGETS[spec.budget].needs == "inputs"
    return known(draft.plan.source, spec.budget, settings, spec.calibration if inputs else None)


def _pass(spec: PlanSpec, draft: Draft, tokens: Tensor) -> Iterator[Event | SiteTraits]:
    """Events, and the traits of each site."""
    rule, feed = BUDGETS[spec.budget], BlockFeed(draft)
    inputs = rule.needs == "inputs"
    clock = BlockClock(draft.anatomy.count)
    detail = f", {tokens.shape[0]} x {tokens.shape[1]} tokens" if inputs else ""
    yield Stage(name="measure", detail=f"for the budgets ({spec.budget}): {draft.anatomy.count} blocks{detail}")
    walk = feed.begin(tokens) if inputs else None
    for index in range(draft.anatomy.count):
        block, stats = feed.fill(index), {}
        sites = draft.anatomy.of_block(index)
        for site in sites:
            check_weight(site.name, draft.model.get_submodule(site.name).weight)
        if walk:
            gram = spec.budget == "measured" and METHODS[spec.method].needs_gram
            for share in _collected(walk, (index, block), draft, stats, gram=gram):
                yield clock.progress("measure", 0.5 * share)
        seen = [Seen(site, weight_of(draft.model, site), stats.get(site.name)) for site in sites]
        for done, traits in zip(count(1), rule.learns(seen, spec), strict=False):
            yield traits
            yield clock.progress("measure", 0.5 + 0.5 * done / len(sites))
        feed.release(index)
        clock.block_done()


def _collected(
    walk: Walk, at: tuple[int, nn.Module], draft: Draft, stats: dict[str, InputStats], *, gram: bool
) -> Iterator[float]:
    """Fill `stats` with what the dense block's sites meet, then go through it. Yields the share done."""
    sites = {site.name: draft.model.get_submodule(site.name) for site in draft.anatomy.of_block(at[0])}
    for share in walk.collect(*at, sites, stats, gram):
        yield share / 2
    for share in walk.propagate(*at):
        yield 0.5 + share / 2
