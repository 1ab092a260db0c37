"""The tab Chat: one prompt, two models, each with its speed; the models run in a separate process."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from lsprism.chat import SLOTS, ChatClient, ChatProgress, ChatTask, ModelRequest, Slot, Turn
from lsprism.chat.votes import Vote, VoteStore, count_votes
from lsprism.errors import LSPrismError, SpecError
from lsprism.specs import GenerateSpec, validate
from lsprism.ui import chat_form, chat_html
from lsprism.ui.chat_state import ChatPage, create_page, decode_page, encode_page
from lsprism.ui.context import Context, show_errors
from lsprism.ui.model_choices import find_pair, list_artifacts, list_choices
from lsprism.ui.texts import chat as texts

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
EVERY_S = 0.1  # between two updates of a page
POLL_S = 5.0
AT_ONCE = 8  # pages that may wait for an answer at the same time
SPEC = tuple(name for name in GenerateSpec.model_fields if name != "ignore_eos")
Values = dict[str, Any]  # the form's, by the names of the settings
Shown = dict[str, Any]  # new content of the page, by the names of its parts


class ChatHandlers:
    """What the buttons do. All return the new content of the page, by the names of its parts."""

    def __init__(self, context: Context, talk: ChatClient) -> None:
        self.runs, self.talk, self.votes = context.runs, talk, VoteStore(context.runs.home)
        self.works: dict[str, ChatTask] = {}  # by page session

    def handle_send(self, values: Values, page: ChatPage, session: str) -> Iterator[Shown]:
        """Send the prompt to both models; yields while the answers grow."""
        if not values["prompt"].strip():
            return
        yield from self._stream_answers(values, page.prepare_question(), values["prompt"], session, {"prompt": ""})

    def handle_again(self, values: Values, page: ChatPage, session: str) -> Iterator[Shown]:
        """Send the last prompt again, with the next seed."""
        before, prompt = page.conversation.remove_last()
        if prompt:
            seed = (values["seed"] or 0) + 1
            page = replace(page, conversation=before, voted=False)
            yield from self._stream_answers({**values, "seed": seed}, page, prompt, session, {"seed": seed})

    def _stream_answers(
        self, values: Values, page: ChatPage, prompt: str, session: str, first: Shown
    ) -> Iterator[Shown]:
        with show_errors():
            spec = validate(GenerateSpec, **{name: values[name] for name in SPEC})
            work = self.talk.generate(read_models(values), build_prompts(values, page, prompt), spec)
        for now in self._stream_progress(
            work, session
        ):  # always complete: of two updates in one frame a page shows only one
            told = page.add_turn(Turn(prompt, now.answers))
            shown = (
                {"page": told}
                | self._show_conversation(told)
                | self._show_state(told, values, now)
                | self._show_buttons(told, now)
            )
            yield first | shown | ({"kept": encode_page(told)} if now.ended else {})
            first = {}

    def handle_load(self, values: Values, page: ChatPage, session: str) -> Iterator[Shown]:
        with show_errors():
            work = self.talk.load(read_models(values))
        yield from self._stream_loading(work, values, page, session)

    def handle_unload(self, values: Values, page: ChatPage, session: str) -> Iterator[Shown]:
        with show_errors():
            work = self.talk.unload()
        yield from self._stream_loading(work, values, page, session)

    def _stream_loading(self, work: ChatTask, values: Values, page: ChatPage, session: str) -> Iterator[Shown]:
        for now in self._stream_progress(work, session):
            failures = dict.fromkeys([now.failure, *(answer.failure for answer in now.answers.values())])
            now = replace(now, failure=" ".join(filter(None, failures)))
            yield self._show_state(page, values, now) | update_buttons(not now.ended)

    def _stream_progress(self, work: ChatTask, session: str) -> Iterator[ChatProgress]:
        """Yield progress; closing the page stops its work."""
        self.works[session] = work
        try:
            yield from work.iter_progress(EVERY_S)
        finally:
            self.works.pop(session, None)
            self.talk.stop(work)

    def stop(self, session: str) -> None:
        if (work := self.works.get(session)) is not None:
            self.talk.stop(work)

    def handle_vote(self, verdict: str, values: Values, page: ChatPage) -> Shown:
        """Record a vote for A, for B, or for neither; afterwards names and speeds are shown."""
        seating = self.talk.seating
        with show_errors():
            if not page.can_vote or set(seating.seats) != set(SLOTS):
                raise SpecError(*texts.CANNOT_VOTE)
            slot = dict(zip("ab", page.order, strict=True)).get(verdict, verdict)
            pair = {"labels": chat_html.make_labels(seating), "weights": chat_html.get_weight_hashes(seating)}
            self.votes.add(Vote(at=time.time(), verdict=slot, blind=page.blind, **pair))
        return self._update_page(replace(page, voted=True), values)

    def edit(self, page: ChatPage, values: Values) -> Shown:
        """Undo the last turn and put its prompt back into the box."""
        before, prompt = page.conversation.remove_last()
        return self._update_page(replace(page, conversation=before), values) | ({"prompt": prompt} if prompt else {})

    def undo(self, page: ChatPage, values: Values) -> Shown:
        return self._update_page(replace(page, conversation=page.conversation.remove_last()[0]), values)

    def clear(self, page: ChatPage, values: Values) -> Shown:
        return self._update_page(create_page(bool(values["blind"])), values)

    def restore(self, said: str | None, values: Values) -> Shown:
        """The page as the browser has stored it."""
        page = decode_page(said)
        return self.show(page, values) | {"blind": page.blind}

    def _update_page(self, page: ChatPage, values: Values) -> Shown:
        return self.show(page, values) | {"kept": encode_page(page)}

    def show(self, page: ChatPage, values: Values) -> Shown:
        """All content of a page on which nothing is running."""
        return (
            {"page": page}
            | self._show_conversation(page)
            | self._show_state(page, values, None)
            | self._show_buttons(page, None)
        )

    def update_models(self, page: ChatPage, values: Values) -> Shown:
        """Other models were selected; the conversation stays as it is, restored already or not."""
        return self._show_state(page, values, None)

    def update_choices(self, seen: str) -> tuple[Any, Any, str]:
        """The models to choose from, if they have changed."""
        found = list_choices(self.runs)
        if str(found) == seen:
            return (gr.skip(),) * 3
        return gr.Dropdown(choices=found), gr.Dropdown(choices=found), str(found)

    def select_run(self, run_id: str) -> tuple[Any, Any]:
        """Select the base model and the artifact of the run that was opened."""
        try:
            pair = find_pair(self.runs.get(run_id)) if run_id else None
        except LSPrismError:
            pair = None
        return pair or (gr.skip(), gr.skip())

    def _show_conversation(self, page: ChatPage) -> Shown:
        same = self.talk.seating.same_tokens
        examples = gr.Row(visible=not page.conversation.turns)
        return {
            "now": chat_html.render_last(page, same),
            "past": chat_html.render_past(page, same),
            "examples": examples,
        }

    def _show_state(self, page: ChatPage, values: Values, now: ChatProgress | None) -> Shown:
        """Headers, memory, and status."""
        seating, made = self.talk.seating, list_artifacts(self.runs)
        asked = {slot: (values[slot] or "").strip() for slot in SLOTS}
        return {
            "sides": chat_html.render_sides(page, seating, asked, made),
            "memory": "" if page.hidden else chat_html.render_memory(seating),
            "status": chat_html.render_status(now, page.hidden),
        }

    def _show_buttons(self, page: ChatPage, now: ChatProgress | None) -> Shown:
        """Buttons; when idle, also the vote buttons, and the tally of votes unless something failed."""
        seating, status = self.talk.seating, chat_html.render_status(now, page.hidden)
        idle = now is None or now.ended
        if not status and not page.hidden and set(seating.seats) == set(SLOTS) and page.conversation.turns:
            counts = count_votes(self.votes.read_all(), chat_html.get_weight_hashes(seating), page.blind)
            status = chat_html.render_votes(counts, chat_html.make_labels(seating), page.blind)
        shown = {"vote": gr.Row(visible=idle and page.can_vote), "status": status}
        return shown | (update_buttons(not idle) if now is not None else {})


def read_models(values: Values) -> dict[Slot, ModelRequest]:
    """SpecError if a model is missing."""
    if not all((values[slot] or "").strip() for slot in SLOTS):
        raise SpecError(*texts.MODEL_MISSING)
    how = {"device": (values["device"] or "auto").strip(), "dtype": values["dtype"]}
    return {slot: validate(ModelRequest, model_id=values[slot].strip(), **how) for slot in SLOTS}


def build_prompts(values: Values, page: ChatPage, prompt: str) -> dict[Slot, str | list[dict[str, str]]]:
    """The input of each model: a conversation, or the raw prompt."""
    if values["mode"] != chat_form.CHAT:
        return dict.fromkeys(SLOTS, prompt)
    return {slot: page.conversation.build_messages(slot, prompt, values["system"] or "") for slot in SLOTS}


def update_buttons(busy: bool) -> Shown:
    """Enable Stop while busy, all others while idle."""
    idle = dict.fromkeys(("send", "load", "unload", "again", "edit", "undo", "clear"))
    return {name: gr.Button(interactive=not busy) for name in idle} | {"stop": gr.Button(interactive=busy)}


def build(context: Context) -> None:
    """The controls, and what they do."""
    handlers, parts = ChatHandlers(context, ChatClient()), chat_form.build(context.runs)
    wire = ComponentMap(parts, context.talk)
    sends = [parts.prompt.submit, parts.buttons["send"].click]
    wire.connect_stream(sends, handlers.handle_send)
    wire.connect_stream([parts.buttons["again"].click], handlers.handle_again)
    wire.connect_stream([parts.buttons["load"].click], handlers.handle_load)
    wire.connect_stream([parts.buttons["unload"].click], handlers.handle_unload)
    parts.buttons["stop"].click(_make_stop(handlers), None, None, queue=False, **QUIET)
    for name in ("edit", "undo", "clear"):
        wire.connect_change([parts.buttons[name].click], getattr(handlers, name))
    wire.connect_change([parts.blind.input], handlers.clear)
    wire.connect_change([parts.left.change, parts.right.change], handlers.update_models)
    wire.connect_restore(context.page.load, handlers.restore)
    for verdict in ("a", "b", "equal", "bad"):
        wire.connect_change([parts.buttons[verdict].click], _make_vote(handlers, verdict))
    for text, button in parts.examples.items():
        button.click(lambda text=text: text, None, parts.prompt, queue=False, **QUIET)
    seen = gr.State("")
    for event in (context.page.load, context.create_timer("chat", POLL_S).tick):
        event(handlers.update_choices, seen, [parts.left, parts.right, seen], queue=False, **QUIET)
    context.opened.change(handlers.select_run, context.opened, [parts.left, parts.right], queue=False, **QUIET)


class ComponentMap:
    """Maps gradio's components to the names that handlers use."""

    def __init__(self, parts: chat_form.ChatForm, kept: gr.BrowserState) -> None:
        self.inputs = {"left": parts.left, "right": parts.right, "prompt": parts.prompt, "blind": parts.blind}
        self.inputs |= parts.fields
        self.page: gr.State = parts.shown["page"]
        self.kept = kept
        self.shown = {**parts.shown, **parts.buttons, "prompt": parts.prompt, "seed": parts.fields["seed"]}
        self.shown |= {"blind": parts.blind, "kept": kept}

    def connect_stream(self, events: list[Any], handler: Callable[[Values, ChatPage, str], Iterator[Shown]]) -> None:
        def handle(said: dict, request: gr.Request) -> Iterator[dict]:
            for told in handler(self._read_values(said), said[self.page], request.session_hash or ""):
                yield self._map_components(told)

        gr.on(
            events, handle, {*self.inputs.values(), self.page}, list(self.shown.values()),
            concurrency_limit=AT_ONCE, trigger_mode="once", **QUIET,
        )  # fmt: skip

    def connect_change(self, events: list[Any], handler: Callable[[ChatPage, Values], Shown]) -> None:
        def handle(said: dict) -> dict:
            return self._map_components(handler(said[self.page], self._read_values(said)))

        gr.on(
            events, handle, {*self.inputs.values(), self.page}, list(self.shown.values()),
            queue=False, trigger_mode="always_last", **QUIET,  # so that both of two simultaneous changes are seen
        )  # fmt: skip

    def connect_restore(self, event: Any, handler: Callable[[str | None, Values], Shown]) -> None:
        def handle(said: dict) -> dict:
            return self._map_components(handler(said[self.kept], self._read_values(said)))

        event(handle, {*self.inputs.values(), self.kept}, list(self.shown.values()), queue=False, **QUIET)

    def _read_values(self, said: dict) -> Values:
        return {name: said[component] for name, component in self.inputs.items()}

    def _map_components(self, told: Shown) -> dict:
        return {self.shown[name]: value for name, value in told.items()}


def _make_stop(handlers: ChatHandlers) -> Callable[[gr.Request], None]:
    def stop(request: gr.Request) -> None:
        handlers.stop(request.session_hash or "")

    return stop


def _make_vote(handlers: ChatHandlers, verdict: str) -> Callable[[ChatPage, Values], Shown]:
    return lambda page, values: handlers.handle_vote(verdict, values, page)
