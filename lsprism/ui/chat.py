"""The tab Chat: one prompt, two models, each with its speed; the models run in a separate process."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from lsprism.errors import LSPrismError, SpecError
from lsprism.specs import GenerateSpec, ask
from lsprism.talk import SLOTS, Progress, Slot, Talk, Turn, Wanted, Work
from lsprism.talk.votes import Vote, Votes, tally
from lsprism.ui import chat_form, chat_page
from lsprism.ui.chat_state import Page, fresh, kept, restored
from lsprism.ui.choices import artifacts, choices, pair_of
from lsprism.ui.context import Context, refusals
from lsprism.ui.texts import chat as texts

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
EVERY_S = 0.1  # between two updates of a page
POLL_S = 5.0
AT_ONCE = 8  # pages that may wait for an answer at the same time
SPEC = tuple(name for name in GenerateSpec.model_fields if name != "ignore_eos")
Values = dict[str, Any]  # the form's, by the names of the settings
Shown = dict[str, Any]  # new content of the page, by the names of its parts


class Handlers:
    """What the buttons do. All return the new content of the page, by the names of its parts."""

    def __init__(self, context: Context, talk: Talk) -> None:
        self.runs, self.talk, self.votes = context.runs, talk, Votes(context.runs.home)
        self.works: dict[str, Work] = {}  # by page session

    def send(self, values: Values, page: Page, session: str) -> Iterator[Shown]:
        """Send the prompt to both models; yields while the answers grow."""
        if not values["prompt"].strip():
            return
        yield from self._ask(values, page.before_asking(), values["prompt"], session, {"prompt": ""})

    def again(self, values: Values, page: Page, session: str) -> Iterator[Shown]:
        """Send the last prompt again, with the next seed."""
        before, prompt = page.conversation.without_last()
        if prompt:
            seed = (values["seed"] or 0) + 1
            page = replace(page, conversation=before, voted=False)
            yield from self._ask({**values, "seed": seed}, page, prompt, session, {"seed": seed})

    def _ask(self, values: Values, page: Page, prompt: str, session: str, first: Shown) -> Iterator[Shown]:
        with refusals():
            spec = ask(GenerateSpec, **{name: values[name] for name in SPEC})
            work = self.talk.ask(wanted(values), prompts(values, page, prompt), spec)
        for now in self._follow(work, session):  # always complete: of two updates in one frame a page shows only one
            told = page.with_turn(Turn(prompt, now.answers))
            shown = {"page": told} | self._talk(told) | self._state(told, values, now) | self._after(told, now)
            yield first | shown | ({"kept": kept(told)} if now.ended else {})
            first = {}

    def load(self, values: Values, page: Page, session: str) -> Iterator[Shown]:
        with refusals():
            work = self.talk.load(wanted(values))
        yield from self._seat(work, values, page, session)

    def unload(self, values: Values, page: Page, session: str) -> Iterator[Shown]:
        with refusals():
            work = self.talk.unload()
        yield from self._seat(work, values, page, session)

    def _seat(self, work: Work, values: Values, page: Page, session: str) -> Iterator[Shown]:
        for now in self._follow(work, session):
            failures = dict.fromkeys([now.failure, *(answer.failure for answer in now.answers.values())])
            now = replace(now, failure=" ".join(filter(None, failures)))
            yield self._state(page, values, now) | buttons(not now.ended)

    def _follow(self, work: Work, session: str) -> Iterator[Progress]:
        """Yield progress; closing the page stops its work."""
        self.works[session] = work
        try:
            yield from work.watch(EVERY_S)
        finally:
            self.works.pop(session, None)
            self.talk.stop(work)

    def stop(self, session: str) -> None:
        if (work := self.works.get(session)) is not None:
            self.talk.stop(work)

    def vote(self, verdict: str, values: Values, page: Page) -> Shown:
        """Record a vote for A, for B, or for neither; afterwards names and speeds are shown."""
        seating = self.talk.seating
        with refusals():
            if not page.can_vote or set(seating.seats) != set(SLOTS):
                raise SpecError(*texts.CANNOT_VOTE)
            slot = dict(zip("ab", page.order, strict=True)).get(verdict, verdict)
            pair = {"labels": chat_page.labels(seating), "weights": chat_page.weights(seating)}
            self.votes.add(Vote(at=time.time(), verdict=slot, blind=page.blind, **pair))
        return self._changed(replace(page, voted=True), values)

    def edit(self, page: Page, values: Values) -> Shown:
        """Undo the last turn and put its prompt back into the box."""
        before, prompt = page.conversation.without_last()
        return self._changed(replace(page, conversation=before), values) | ({"prompt": prompt} if prompt else {})

    def undo(self, page: Page, values: Values) -> Shown:
        return self._changed(replace(page, conversation=page.conversation.without_last()[0]), values)

    def clear(self, page: Page, values: Values) -> Shown:
        return self._changed(fresh(bool(values["blind"])), values)

    def restore(self, said: str | None, values: Values) -> Shown:
        """The page as the browser has stored it."""
        page = restored(said)
        return self.show(page, values) | {"blind": page.blind}

    def _changed(self, page: Page, values: Values) -> Shown:
        return self.show(page, values) | {"kept": kept(page)}

    def show(self, page: Page, values: Values) -> Shown:
        """All content of a page on which nothing is running."""
        return {"page": page} | self._talk(page) | self._state(page, values, None) | self._after(page, None)

    def rechosen(self, page: Page, values: Values) -> Shown:
        """Other models were selected; the conversation stays as it is, restored already or not."""
        return self._state(page, values, None)

    def known(self, seen: str) -> tuple[Any, Any, str]:
        """The models to choose from, if they have changed."""
        found = choices(self.runs)
        if str(found) == seen:
            return (gr.skip(),) * 3
        return gr.Dropdown(choices=found), gr.Dropdown(choices=found), str(found)

    def choose(self, run_id: str) -> tuple[Any, Any]:
        """Select the base model and the artifact of the run that was opened."""
        try:
            pair = pair_of(self.runs.get(run_id)) if run_id else None
        except LSPrismError:
            pair = None
        return pair or (gr.skip(), gr.skip())

    def _talk(self, page: Page) -> Shown:
        same = self.talk.seating.same_tokens
        examples = gr.Row(visible=not page.conversation.turns)
        return {"now": chat_page.last(page, same), "past": chat_page.past(page, same), "examples": examples}

    def _state(self, page: Page, values: Values, now: Progress | None) -> Shown:
        """Headers, memory, and status."""
        seating, made = self.talk.seating, artifacts(self.runs)
        asked = {slot: (values[slot] or "").strip() for slot in SLOTS}
        return {
            "sides": chat_page.sides(page, seating, asked, made),
            "memory": "" if page.hidden else chat_page.memory(seating),
            "status": chat_page.status(now, page.hidden),
        }

    def _after(self, page: Page, now: Progress | None) -> Shown:
        """Buttons; when idle, also the vote buttons, and the tally of votes unless something failed."""
        seating, status = self.talk.seating, chat_page.status(now, page.hidden)
        idle = now is None or now.ended
        if not status and not page.hidden and set(seating.seats) == set(SLOTS) and page.conversation.turns:
            counts = tally(self.votes.all(), chat_page.weights(seating), page.blind)
            status = chat_page.tally(counts, chat_page.labels(seating), page.blind)
        shown = {"vote": gr.Row(visible=idle and page.can_vote), "status": status}
        return shown | (buttons(not idle) if now is not None else {})


def wanted(values: Values) -> dict[Slot, Wanted]:
    """SpecError if a model is missing."""
    if not all((values[slot] or "").strip() for slot in SLOTS):
        raise SpecError(*texts.MODEL_MISSING)
    how = {"device": (values["device"] or "auto").strip(), "dtype": values["dtype"]}
    return {slot: ask(Wanted, model_id=values[slot].strip(), **how) for slot in SLOTS}


def prompts(values: Values, page: Page, prompt: str) -> dict[Slot, str | list[dict[str, str]]]:
    """The input of each model: a conversation, or the raw prompt."""
    if values["mode"] != chat_form.CHAT:
        return dict.fromkeys(SLOTS, prompt)
    return {slot: page.conversation.messages(slot, prompt, values["system"] or "") for slot in SLOTS}


def buttons(busy: bool) -> Shown:
    """Enable Stop while busy, all others while idle."""
    idle = dict.fromkeys(("send", "load", "unload", "again", "edit", "undo", "clear"))
    return {name: gr.Button(interactive=not busy) for name in idle} | {"stop": gr.Button(interactive=busy)}


def build(context: Context) -> None:
    """The controls, and what they do."""
    handlers, parts = Handlers(context, Talk()), chat_form.build(context.runs)
    wire = Wire(parts, context.talk)
    sends = [parts.prompt.submit, parts.buttons["send"].click]
    wire.streams(sends, handlers.send)
    wire.streams([parts.buttons["again"].click], handlers.again)
    wire.streams([parts.buttons["load"].click], handlers.load)
    wire.streams([parts.buttons["unload"].click], handlers.unload)
    parts.buttons["stop"].click(_stopping(handlers), None, None, queue=False, **QUIET)
    for name in ("edit", "undo", "clear"):
        wire.changes([parts.buttons[name].click], getattr(handlers, name))
    wire.changes([parts.blind.input], handlers.clear)
    wire.changes([parts.left.change, parts.right.change], handlers.rechosen)
    wire.restores(context.page.load, handlers.restore)
    for verdict in ("a", "b", "equal", "bad"):
        wire.changes([parts.buttons[verdict].click], _voting(handlers, verdict))
    for text, button in parts.examples.items():
        button.click(lambda text=text: text, None, parts.prompt, queue=False, **QUIET)
    seen = gr.State("")
    for event in (context.page.load, context.timer("chat", POLL_S).tick):
        event(handlers.known, seen, [parts.left, parts.right, seen], queue=False, **QUIET)
    context.opened.change(handlers.choose, context.opened, [parts.left, parts.right], queue=False, **QUIET)


class Wire:
    """Maps gradio's components to the names that handlers use."""

    def __init__(self, parts: chat_form.Parts, kept: gr.BrowserState) -> None:
        self.inputs = {"left": parts.left, "right": parts.right, "prompt": parts.prompt, "blind": parts.blind}
        self.inputs |= parts.fields
        self.page: gr.State = parts.shown["page"]
        self.kept = kept
        self.shown = {**parts.shown, **parts.buttons, "prompt": parts.prompt, "seed": parts.fields["seed"]}
        self.shown |= {"blind": parts.blind, "kept": kept}

    def streams(self, events: list[Any], handler: Callable[[Values, Page, str], Iterator[Shown]]) -> None:
        def handle(said: dict, request: gr.Request) -> Iterator[dict]:
            for told in handler(self._values(said), said[self.page], request.session_hash or ""):
                yield self._components(told)

        gr.on(
            events, handle, {*self.inputs.values(), self.page}, list(self.shown.values()),
            concurrency_limit=AT_ONCE, trigger_mode="once", **QUIET,
        )  # fmt: skip

    def changes(self, events: list[Any], handler: Callable[[Page, Values], Shown]) -> None:
        def handle(said: dict) -> dict:
            return self._components(handler(said[self.page], self._values(said)))

        gr.on(
            events, handle, {*self.inputs.values(), self.page}, list(self.shown.values()),
            queue=False, trigger_mode="always_last", **QUIET,  # so that both of two simultaneous changes are seen
        )  # fmt: skip

    def restores(self, event: Any, handler: Callable[[str | None, Values], Shown]) -> None:
        def handle(said: dict) -> dict:
            return self._components(handler(said[self.kept], self._values(said)))

        event(handle, {*self.inputs.values(), self.kept}, list(self.shown.values()), queue=False, **QUIET)

    def _values(self, said: dict) -> Values:
        return {name: said[component] for name, component in self.inputs.items()}

    def _components(self, told: Shown) -> dict:
        return {self.shown[name]: value for name, value in told.items()}


def _stopping(handlers: Handlers) -> Callable[[gr.Request], None]:
    def stop(request: gr.Request) -> None:
        handlers.stop(request.session_hash or "")

    return stop


def _voting(handlers: Handlers, verdict: str) -> Callable[[Page, Values], Shown]:
    return lambda page, values: handlers.vote(verdict, values, page)
