"""The conversation of one browser page, and how the browser stores it. Frozen values; no gradio."""

import secrets
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from lsprism.chat import SLOTS, ChatAnswer, Conversation, Slot, Turn


@dataclass(frozen=True)
class ChatPage:
    """The conversation of one page. In a blind test the sides are shuffled."""

    conversation: Conversation = Conversation()
    blind: bool = False
    crossed: bool = False  # A is the right side
    voted: bool = False  # on the last turn

    @property
    def order(self) -> tuple[Slot, Slot]:
        """The sides from left to right."""
        return (SLOTS[1], SLOTS[0]) if self.crossed else SLOTS

    @property
    def hidden(self) -> bool:
        """Whether names and speeds are hidden until the vote."""
        return self.blind and not self.voted

    def prepare_question(self) -> "ChatPage":
        """A blind vote has revealed the models, so the next prompt starts a new conversation."""
        return create_page(True) if self.blind and self.voted else replace(self, voted=False)

    def add_turn(self, turn: Turn) -> "ChatPage":
        return replace(self, conversation=self.conversation.add_turn(turn), voted=False)

    @property
    def can_vote(self) -> bool:
        """Whether both have answered the last prompt and it has no vote yet."""
        turns = self.conversation.turns
        return bool(turns) and not self.voted and all(_is_complete(turns[-1].answers.get(slot)) for slot in SLOTS)


def create_page(blind: bool) -> ChatPage:
    return ChatPage(blind=blind, crossed=blind and secrets.randbelow(2) == 1)


def encode_page(page: ChatPage) -> str:
    """The page as the browser stores it, so that a reload continues the conversation."""
    return _PAGE.dump_json(page).decode()


def decode_page(said: str | None) -> ChatPage:
    """The stored page; a fresh one if nothing was stored, or it cannot be read."""
    try:
        return _PAGE.validate_json(said or "")
    except ValidationError:
        return ChatPage()


_PAGE = TypeAdapter(ChatPage)


def _is_complete(answer: ChatAnswer | None) -> bool:
    return answer is not None and bool(answer.reason) and not answer.failure
