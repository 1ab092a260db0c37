"""llama.cpp as one model of a comparison: converts its files and decodes in a child process, interleaved with others.

    python tests/bench/llama.py convert model.Q4_1.gguf model.F16.gguf --to F16

PyTorch's threads wait actively for a while and would compete with llama.cpp's in the same process. So it runs in a
child, which decodes only on request and may use another Python with llama-cpp-python (--llama-python of speed.py).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

KINDS = ("F16", "Q8_0")


def convert(file: Path, to: Path, kind: str) -> None:
    """Write the same model and metadata with matrices in `kind`; 1-D tensors are unchanged."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize

    read = GGUFReader(file)
    fields = {name: field for name, field in read.fields.items() if not name.startswith("GGUF.")}
    writer = GGUFWriter(to, fields.pop("general.architecture").contents())
    fields.pop("general.file_type", None)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind}"])
    for name, field in fields.items():
        of = field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], of)
    tensors = ((tensor.name, dequantize(tensor.data, tensor.tensor_type)) for tensor in read.tensors)
    _write(writer, tensors, kind)


def of_llama(model, to: Path, kind: str) -> None:
    """Write a LlamaForCausalLM with a dummy vocabulary, for timing only."""
    from gguf import MODEL_ARCH, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map

    c = model.config
    writer = GGUFWriter(to, "llama")
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{n}>" for n in range(c.vocab_size)])
    writer.add_token_scores([0.0] * c.vocab_size)
    writer.add_token_types([TokenType.NORMAL] * c.vocab_size)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, c.num_hidden_layers)
    state = {name: tensor for name, tensor in model.state_dict().items() if name.endswith("weight")}
    tensors = (
        (names.get_name(name, try_suffixes=(".weight",)), tensor.float().numpy()) for name, tensor in state.items()
    )
    _write(writer, tensors, kind)


def _write(writer, tensors: Iterator, kind: str) -> None:
    """`tensors`: (name, float32 array) pairs."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    for name, array in tensors:
        as_is = array.ndim == 1
        stored = GGMLQuantizationType.F32 if as_is else GGMLQuantizationType[kind]
        writer.add_tensor(name, array.astype("float32") if as_is else quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Child:
    """A model in a child process, which is idle between calls."""

    def __init__(self, python: str, file: Path, threads: int, prompt: int, room: int) -> None:
        command = [python, __file__, "serve", str(file), *map(str, (threads, prompt, room))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def __call__(self, count: int) -> list[float]:
        """Seconds of each of `count` more tokens."""
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[float]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("llama.cpp has exited; see its message above.")
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def installed(python: str) -> bool:
    """Whether that Python has llama-cpp-python."""
    return subprocess.run([python, "-c", "import llama_cpp"], capture_output=True).returncode == 0


def serve(file: str, threads: int, prompt: int, room: int) -> None:
    """Read a number of tokens per line, decode that many greedily, and write the seconds of each as JSON."""
    import llama_cpp
    import numpy as np

    model = llama_cpp.Llama(file, n_ctx=prompt + room, n_threads=threads, n_threads_batch=threads, verbose=False)
    context, words = model._ctx.ctx, model.n_vocab()
    answers, sys.stdout = sys.stdout, sys.stderr

    def decode(tokens: list[int]) -> int:
        """The most likely next token, through the C API: Llama.eval copies and checks more."""
        read = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(read, len(tokens))):
            raise RuntimeError("llama_decode failed")
        return int(np.argmax(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (words,))))

    token = decode(list(range(100, 100 + prompt)))
    answers.write("[]\n")
    answers.flush()
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            started = time.perf_counter()
            token = decode([token])
            seconds.append(time.perf_counter() - started)
        answers.write(json.dumps(seconds) + "\n")
        answers.flush()


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        return serve(sys.argv[2], *map(int, sys.argv[3:6]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["convert"])
    parser.add_argument("file", type=Path, help="a GGUF file of any quantization")
    parser.add_argument("to", type=Path)
    parser.add_argument("--to", dest="kind", choices=KINDS, default="F16")
    options = parser.parse_args()
    convert(options.file, options.to, options.kind)
    return None


if __name__ == "__main__":
    main()
