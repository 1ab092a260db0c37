"""How the browser page of the tab Chat looks as HTML. Pure; no gradio.

Whatever a model or a user wrote is escaped here: it is shown as text, whatever it looks like.
"""

from collections.abc import Mapping
from html import escape

from lsprism.charts.units import amount, size
from lsprism.talk import SLOTS, Answer, Portrait, Progress, Seat, Seating, Slot, Turn, parting, speed_up
from lsprism.talk.votes import Tally
from lsprism.ui.cards import empty
from lsprism.ui.chat_state import Page

NAMELESS: Mapping[str, str] = {}
SHOWN = 2000  # characters of a prompt
COPY = '<button class="copy" onclick="lsprismCopy(this)">Copy</button>'
REASONS = {"eos": "", "length": "cut at the most tokens", "stopped": "stopped", "failed": ""}
HINTS = {
    "Parameters kept": "Numbers the model still holds, embeddings included, of those it had before compression",
    "Zeros": "Share of the places in the blocks' layers that hold no number",
    "Mean rank": "Columns of the low-rank factors, mean over the layers that have them",
    "Held as": "Number format and device of the weights",
    "In memory": "All tensors of the model, as they are in memory now",
    "Weights": "First digits of the SHA-256 of all weights in memory: equal ones are the same model",
}
NOTHING = empty(
    "Nothing said yet",
    "Write a prompt below, or take an example: both models answer. Enter sends, Shift+Enter begins a line, Esc stops.",
)


def name(place: int) -> str:
    return "AB"[place]


def sides(page: Page, seating: Seating, wanted: Mapping[Slot, str], names: Mapping[str, str] = NAMELESS) -> str:
    """Both headers, from left to right. `names`: what models are called that are not in memory yet."""
    asked = [(slot, wanted.get(slot, "")) for slot in page.order]
    cards = [
        _side(n, page, seating.seats.get(slot), (model, names.get(model, ""))) for n, (slot, model) in enumerate(asked)
    ]
    return f'<div class="sides">{"".join(cards)}</div>'


def _side(place: int, page: Page, seat: Seat | None, asked: tuple[str, str]) -> str:
    wanted, called = asked
    if page.hidden:
        return _card(
            place,
            "hidden until you vote",
            "",
            "<p class='quiet'>One of the two models chosen above; which one is drawn by lot.</p>",
        )
    if seat is None or (wanted and seat.wanted.model_id != wanted):
        what = "<p class='quiet'>Not in memory yet: it is loaded with the first question.</p>"
        return _card(place, called or _short(wanted) or "no model", "", what)
    state = "in memory" if seat.resident else "loaded when it answers"
    return _card(
        place, _label(seat), f'<span class="badge{" good" if seat.resident else ""}">{state}</span>', facts(seat)
    )


def _card(place: int, title: str, badge: str, body: str) -> str:
    letter = f'<span class="letter">{name(place)}</span>'
    return (
        f'<section class="side"><div class="head">{letter}<strong>{escape(title)}</strong>{badge}</div>{body}</section>'
    )


def facts(seat: Seat) -> str:
    """The header's figures, each with what it means."""
    one = seat.portrait
    zeros = f"{one.zeros:.1%}" if one.zeros is not None else "factors only"
    rows = {
        "Parameters kept": f"{amount(one.kept_parameters)}, {one.kept_parameters / one.model_parameters:.0%}",
        "Zeros": zeros,
        "Mean rank": f"{one.mean_rank:.1f}" if one.mean_rank is not None else "no factors",
        "Held as": f"{one.dtype}, {one.device}",
        "In memory": size(one.resident_bytes),
        "Weights": one.weights_sha256[:8],
    }
    cells = (
        f'<div title="{escape(HINTS[key])}"><dt>{key}</dt><dd>{escape(value)}</dd></div>' for key, value in rows.items()
    )
    plain = "" if one.chats else "<p class='quiet'>No chat template: prompts are completed as plain text.</p>"
    return f'<dl class="facts">{"".join(cells)}</dl>{plain}'


def _label(seat: Seat) -> str:
    return seat.portrait.label if seat.portrait.packed_layers else _short(seat.portrait.model_id)


def _short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2] if model.count("/") > 1 else model


def memory(seating: Seating) -> str:
    """Before and after the last load or unload, and what both together come to."""
    if seating.before is None or seating.after is None:
        return ""
    before, after, free = (size(n) for n in (seating.before.taken, seating.after.taken, seating.after.free))
    said = f"The models' process: {before} → {after}, {free} free."
    note = f'<div class="note fair">{escape(seating.note)}</div>' if seating.note else ""
    return f'<p class="quiet">{said}</p>{note}'


def status(progress: Progress | None, hidden: bool) -> str:
    """What is being done; empty when nothing is."""
    if progress is None or progress.ended:
        failure = progress.failure if progress else ""
        return f'<div class="note bad"><strong>{escape(failure)}</strong></div>' if failure else ""
    what = "loading a model" if hidden and progress.slot else progress.what
    return f'<p class="busy"><i></i>{escape(what[:1].upper() + what[1:])} … <span class="quiet">Esc stops</span></p>'


def past(page: Page, same_tokens: bool) -> str:
    """All turns but the last."""
    return "".join(turn_of(turn, page, same_tokens) for turn in page.conversation.turns[:-1])


def last(page: Page, same_tokens: bool) -> str:
    """The turn that is under way, or was the last one."""
    said = page.conversation.turns
    return turn_of(said[-1], page, same_tokens) if said else NOTHING


def turn_of(turn: Turn, page: Page, same_tokens: bool) -> str:
    """One prompt and both answers; the first token where they part is marked in both."""
    found = parting(turn.answers, same_tokens)
    answers = []
    for place, slot in enumerate(page.order):
        answer = turn.answers.get(slot, Answer())
        mark = found.places[slot] if found else None
        answers.append(_answer(place, answer, mark, page.hidden))
    footer = _footer(turn, page, found.agreed if found else None)
    return (
        f'<article class="turn"><div class="prompt">{text(_clipped(turn.prompt))}</div>'
        f'<div class="answers">{"".join(answers)}</div>{footer}</article>'
    )


def _answer(place: int, answer: Answer, mark: tuple[int, int] | None, hidden: bool) -> str:
    if answer.failure:
        body = f'<div class="note bad">{text(answer.failure)}</div>'
    elif answer.reason and not answer.text.strip():
        body = '<p class="quiet">no answer</p>'
    else:
        body = f"<pre>{marked(answer.text, mark)}</pre>"
    return (
        f'<div class="answer"><span class="letter">{name(place)}</span>{body}'
        f'<div class="cost"><span>{_cost(answer, hidden)}</span>{COPY if answer.text else ""}</div></div>'
    )


def _cost(answer: Answer, hidden: bool) -> str:
    """What this side alone has cost, as it is now."""
    timing, parts = answer.timing, []
    if timing.tokens and not hidden:
        if timing.tokens_per_s is not None:
            parts.append(f"<strong>{timing.tokens_per_s:.1f} tok/s</strong>")
        parts.append(f"first token {timing.first_token_s:.2f} s")
        parts.append(f"{timing.tokens} token{'s' if timing.tokens != 1 else ''}")
    if said := REASONS.get(answer.reason or "", ""):
        parts.append(said)
    return " · ".join(parts)


def _footer(turn: Turn, page: Page, agreed: int | None) -> str:
    if page.hidden:
        return ""
    parts = []
    ratio = speed_up(turn.answers)
    if ratio is not None:
        faster, factor = (SLOTS[1], ratio) if ratio >= 1 else (SLOTS[0], 1 / ratio)
        letter = name(page.order.index(faster))
        parts.append(f"<strong>{letter} decodes {factor:.2f} × as fast</strong>")
    if agreed is not None:
        parts.append(
            "they part at the first token" if not agreed else f"the same for {agreed} token{'s' * (agreed != 1)}"
        )
    elif _ended(turn):
        parts.append("word for word the same")
    return f'<div class="verdict">{" · ".join(parts)}</div>' if parts else ""


def _ended(turn: Turn) -> bool:
    """Both have answered to the end."""
    return all((answer := turn.answers.get(slot)) is not None and answer.reason in ("eos", "length") for slot in SLOTS)


def tally(counts: Tally, labels: Mapping[Slot, str], blind: bool) -> str:
    """How the votes on this pair stand."""
    total = counts.decided + counts.equal + counts.bad
    kind = f"{'blind ' * blind}vote{'s' * (total != 1)}{'' if blind else ' with the names in sight'}"
    if not total:
        return f'<p class="quiet">No {kind} on these two models yet.</p>'
    said = f"{counts.left} for {escape(labels['left'])}, {counts.right} for {escape(labels['right'])}"
    said += f", {counts.equal} equal, {counts.bad} both bad."
    if counts.decided:
        low, high = counts.interval()
        share = counts.right / counts.decided
        said += f" {escape(labels['right'])} wins {share:.0%} of those decided (95 % interval {low:.0%} to {high:.0%})."
    return f'<p class="tally"><strong>{total} {kind}:</strong> {said}</p>'


def labels(seating: Seating) -> dict[Slot, str]:
    """What both sides are called; two of one name are told apart by their weights."""
    found = {slot: _label(seat) for slot, seat in seating.seats.items()}
    if len(set(found.values())) < len(found):
        found = {slot: f"{label} ({seating.seats[slot].portrait.weights_sha256[:4]})" for slot, label in found.items()}
    return found


def weights(seating: Seating) -> dict[Slot, str]:
    return {slot: _hash(seat.portrait) for slot, seat in seating.seats.items()}


def _hash(portrait: Portrait) -> str:
    return portrait.weights_sha256[:16]


def text(said: str) -> str:
    """Escaped; braces and dollars too, which mean something in gradio's templates."""
    said = said.replace("\0", "\ufffd")
    for sign in "{}$`":
        said = said.replace(sign, f"\0{ord(sign)};")
    return escape(said).replace("\0", "&#")


def marked(said: str, place: tuple[int, int] | None) -> str:
    """The text with one piece marked; a piece without text of its own is marked where it would stand."""
    if place is None:
        return text(said)
    begin, end = place
    inside = text(said[begin:end]) or "&#8203;"
    return f'{text(said[:begin])}<mark title="Here the answers part">{inside}</mark>{text(said[end:])}'


def _clipped(prompt: str) -> str:
    rest = len(prompt) - SHOWN
    return prompt if rest <= 0 else f"{prompt[:SHOWN]} … ({rest:,} more characters)"
