"""Tokenizers that add special tokens around a text, and models with such a tokenizer."""

from pathlib import Path

from conftest import make_model, make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

BOS, EOS = 1, 2


def wrapping(single: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with the template `single`: "<s> $A", "$A </s>"."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[("<s>", BOS), ("</s>", EOS), ("a", 3)]
    )
    return tokenizer


def make_begun(folder: Path, **settings) -> Path:
    """A tiny model whose tokenizer adds <s> before every text, like those of Llama and Gemma."""
    make_model(folder, **settings)
    wrapping("<s> $A").save_pretrained(folder)
    return folder
