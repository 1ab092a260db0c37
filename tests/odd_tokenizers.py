"""Tokenizers that put tokens of their own around a text, and models whose tokenizer is one of them."""

from pathlib import Path

from conftest import make_model, make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

BOS, EOS = 1, 2


def wrapping(single: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with `single` around every text: "<s> $A", "$A </s>"."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[("<s>", BOS), ("</s>", EOS), ("a", 3)]
    )
    return tokenizer


def make_begun(folder: Path, **settings) -> Path:
    """A tiny model whose tokenizer begins every text with <s>, as those of Llama and Gemma do."""
    make_model(folder, **settings)
    wrapping("<s> $A").save_pretrained(folder)
    return folder
