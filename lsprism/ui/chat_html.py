"""The tab Chat as HTML. Pure; no gradio.

Everything that a model or a user wrote is escaped here and shown as text.
"""

from collections.abc import Mapping
from html import escape

from lsprism.chat import (
    SLOTS,
    ChatAnswer,
    ChatProgress,
    LoadedModels,
    LoadedSlot,
    ModelSummary,
    Slot,
    Turn,
    compute_speed_up,
    find_divergence,
)
from lsprism.chat.votes import VoteCount
from lsprism.ui.cards import render_empty
from lsprism.ui.chat_state import ChatPage
from lsprism.ui.texts import chat as texts
from lsprism.units import format_amount, format_size

NAMELESS: Mapping[str, str] = {}
SHOWN = 2000  # characters of a prompt that are shown
COPY = (
    f'<button class="copy" data-copy="{texts.COPY}" data-copied="{texts.COPIED}" onclick="lsprismCopy(this)">'
    f"{texts.COPY}</button>"
)
NOTHING = render_empty(texts.NO_MESSAGES)


def format_name(place: int) -> str:
    return texts.LETTERS[place]


def render_sides(
    page: ChatPage, seating: LoadedModels, wanted: Mapping[Slot, str], names: Mapping[str, str] = NAMELESS
) -> str:
    """Both headers, from left to right. `names`: labels of models that are not loaded yet."""
    asked = [(slot, wanted.get(slot, "")) for slot in page.order]
    cards = [
        _render_side(n, page, seating.seats.get(slot), (model, names.get(model, "")))
        for n, (slot, model) in enumerate(asked)
    ]
    return f'<div class="sides">{"".join(cards)}</div>'


def _render_side(place: int, page: ChatPage, seat: LoadedSlot | None, asked: tuple[str, str]) -> str:
    wanted, called = asked
    if page.hidden:
        return _render_card(place, texts.HIDDEN, "", f'<p class="quiet">{texts.HIDDEN_INFO}</p>')
    if seat is None or (wanted and seat.wanted.model_id != wanted):
        what = f'<p class="quiet">{texts.NOT_LOADED}</p>'
        return _render_card(place, called or _format_short(wanted) or texts.NO_MODEL, "", what)
    state = texts.LOADED if seat.resident else texts.ON_DEMAND
    return _render_card(
        place,
        _format_label(seat),
        f'<span class="badge{" good" if seat.resident else ""}">{state}</span>',
        render_facts(seat),
    )


def _render_card(place: int, title: str, badge: str, body: str) -> str:
    letter = f'<span class="letter">{format_name(place)}</span>'
    return (
        f'<section class="side"><div class="head">{letter}<strong>{escape(title)}</strong>{badge}</div>{body}</section>'
    )


def render_facts(seat: LoadedSlot) -> str:
    """The facts of the header, each with a tooltip."""
    one = seat.portrait
    kept = f"{format_amount(one.kept_parameters)}, {one.kept_parameters / one.model_parameters:.0%}"
    rows = [
        (texts.PARAMETERS, kept, texts.PARAMETERS_HINT),
        (texts.ZEROS, f"{one.zeros:.1%}" if one.zeros is not None else texts.ONLY_LOW_RANK, texts.ZEROS_HINT),
        (texts.RANK, f"{one.mean_rank:.1f}" if one.mean_rank is not None else texts.NO_RANK, texts.RANK_HINT),
        (texts.DTYPE, f"{one.dtype}, {one.device}", texts.DTYPE_HINT),
        (texts.RESIDENT, format_size(one.resident_bytes), texts.RESIDENT_HINT),
        (texts.HASH, one.weights_sha256[:8], texts.HASH_HINT),
    ]
    cells = (f'<div title="{escape(hint)}"><dt>{key}</dt><dd>{escape(value)}</dd></div>' for key, value, hint in rows)
    plain = "" if one.chats else f'<p class="quiet">{texts.NO_TEMPLATE}</p>'
    return f'<dl class="facts">{"".join(cells)}</dl>{plain}'


def _format_label(seat: LoadedSlot) -> str:
    return seat.portrait.label if seat.portrait.packed_layers else _format_short(seat.portrait.model_id)


def _format_short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2] if model.count("/") > 1 else model


def render_memory(seating: LoadedModels) -> str:
    """Memory before and after the last load or unload, and a note if both models do not fit."""
    if seating.before is None or seating.after is None:
        return ""
    before, after, free = (format_size(n) for n in (seating.before.taken, seating.after.taken, seating.after.free))
    said = texts.MEMORY.format(before=before, after=after, free=free)
    note = f'<div class="note fair">{escape(seating.note)}</div>' if seating.note else ""
    return f'<p class="quiet">{said}</p>{note}'


def render_status(progress: ChatProgress | None, hidden: bool) -> str:
    """The current activity; empty when idle."""
    if progress is None or progress.ended:
        failure = progress.failure if progress else ""
        return f'<div class="note bad"><strong>{escape(failure)}</strong></div>' if failure else ""
    what = texts.LOADING if hidden and progress.slot else progress.what
    what = texts.STATUS.format(what=what[:1].upper() + what[1:])
    return f'<p class="busy"><i></i>{escape(what)}<span class="quiet">{texts.STATUS_STOP}</span></p>'


def render_past(page: ChatPage, same_tokens: bool) -> str:
    """All turns except the last."""
    return "".join(render_turn(turn, page, same_tokens) for turn in page.conversation.turns[:-1])


def render_last(page: ChatPage, same_tokens: bool) -> str:
    """The current or last turn."""
    said = page.conversation.turns
    return render_turn(said[-1], page, same_tokens) if said else NOTHING


def render_turn(turn: Turn, page: ChatPage, same_tokens: bool) -> str:
    """One prompt and both answers; the first token that differs is highlighted in both."""
    found = find_divergence(turn.answers, same_tokens)
    answers = []
    for place, slot in enumerate(page.order):
        answer = turn.answers.get(slot, ChatAnswer())
        mark = found.places[slot] if found else None
        answers.append(_render_answer(place, answer, mark, page.hidden))
    footer = _render_footer(turn, page, found.agreed if found else None)
    return (
        f'<article class="turn"><div class="prompt">{render_text(_render_clipped(turn.prompt))}</div>'
        f'<div class="answers">{"".join(answers)}</div>{footer}</article>'
    )


def _render_answer(place: int, answer: ChatAnswer, mark: tuple[int, int] | None, hidden: bool) -> str:
    if answer.failure:
        body = f'<div class="note bad">{render_text(answer.failure)}</div>'
    elif answer.reason and not answer.text.strip():
        body = f'<p class="quiet">{texts.EMPTY_OUTPUT}</p>'
    else:
        body = f"<pre>{render_marked(answer.text, mark)}</pre>"
    return (
        f'<div class="answer"><span class="letter">{format_name(place)}</span>{body}'
        f'<div class="cost"><span>{_render_cost(answer, hidden)}</span>{COPY if answer.text else ""}</div></div>'
    )


def _render_cost(answer: ChatAnswer, hidden: bool) -> str:
    """Speed and length of this side's answer so far."""
    timing, parts = answer.timing, []
    if timing.tokens and not hidden:
        if timing.tokens_per_s is not None:
            parts.append(f"<strong>{texts.SPEED.format(speed=timing.tokens_per_s)}</strong>")
        parts.append(texts.FIRST_TOKEN.format(seconds=timing.first_token_s))
        parts.append(texts.ONE_TOKEN if timing.tokens == 1 else texts.TOKENS.format(count=timing.tokens))
    if said := texts.REASONS.get(answer.reason or "", ""):
        parts.append(said)
    return " · ".join(parts)


def _render_footer(turn: Turn, page: ChatPage, agreed: int | None) -> str:
    if page.hidden:
        return ""
    parts = []
    ratio = compute_speed_up(turn.answers)
    if ratio is not None:
        faster, factor = (SLOTS[1], ratio) if ratio >= 1 else (SLOTS[0], 1 / ratio)
        letter = format_name(page.order.index(faster))
        parts.append(f"<strong>{texts.FASTER.format(letter=letter, factor=factor)}</strong>")
    if agreed is not None:
        parts.append(texts.DIVERGENCE.format(number=agreed + 1))
    elif _has_ended(turn):
        parts.append(texts.IDENTICAL)
    return f'<div class="verdict">{" · ".join(parts)}</div>' if parts else ""


def _has_ended(turn: Turn) -> bool:
    """Whether both have answered to the end."""
    return all((answer := turn.answers.get(slot)) is not None and answer.reason in ("eos", "length") for slot in SLOTS)


def render_votes(counts: VoteCount, labels: Mapping[Slot, str], blind: bool) -> str:
    """The votes on this pair so far."""
    total = counts.decided + counts.equal + counts.bad
    kind = texts.BLIND_VOTE if blind else texts.OPEN_VOTE
    if not total:
        return f'<p class="quiet">{texts.NO_VOTES.format(kind=kind)}</p>'
    left_name, right_name = escape(labels["left"]), escape(labels["right"])
    votes = {"left": counts.left, "right": counts.right, "equal": counts.equal, "bad": counts.bad}
    said = texts.COUNTS.format(**votes, left_name=left_name, right_name=right_name)
    if counts.decided:
        low, high = counts.compute_interval()
        share = counts.right / counts.decided
        said += " " + texts.WINS.format(name=right_name, share=share, low=low, high=high)
    head = texts.TALLY.format(total=total, kind=kind, s="" if total == 1 else "s")
    return f'<p class="tally"><strong>{head}</strong> {said}</p>'


def make_labels(seating: LoadedModels) -> dict[Slot, str]:
    """The names of both models; equal names are distinguished by the hash of the weights."""
    found = {slot: _format_label(seat) for slot, seat in seating.seats.items()}
    if len(set(found.values())) < len(found):
        found = {slot: f"{label} ({seating.seats[slot].portrait.weights_sha256[:4]})" for slot, label in found.items()}
    return found


def get_weight_hashes(seating: LoadedModels) -> dict[Slot, str]:
    return {slot: _get_hash(seat.portrait) for slot, seat in seating.seats.items()}


def _get_hash(portrait: ModelSummary) -> str:
    return portrait.weights_sha256[:16]


def render_text(said: str) -> str:
    """Escaped, including braces and dollars, which gradio's templates would interpret."""
    said = said.replace("\0", "\ufffd")
    for sign in "{}$`":
        said = said.replace(sign, f"\0{ord(sign)};")
    return escape(said).replace("\0", "&#")


def render_marked(said: str, place: tuple[int, int] | None) -> str:
    """The text with one token highlighted; one without visible text is marked at its position."""
    if place is None:
        return render_text(said)
    begin, end = place
    inside = render_text(said[begin:end]) or "&#8203;"
    return f'{render_text(said[:begin])}<mark title="{texts.MARK}">{inside}</mark>{render_text(said[end:])}'


def _render_clipped(prompt: str) -> str:
    rest = len(prompt) - SHOWN
    return prompt if rest <= 0 else texts.MORE_CHARACTERS.format(start=prompt[:SHOWN], count=rest)
