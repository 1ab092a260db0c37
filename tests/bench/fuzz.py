"""Fuzzing: thousands of odd model folders, settings and files. Each works or gives a one-sentence error, no traceback.

    python tests/bench/fuzz.py --count 6000 --seed 0
    python tests/bench/fuzz.py --case folder:0:123      repeat one case, with its traceback

Case n of a kind depends only on the seed and n. Everything runs in one process, through the command line where there is
a command for it, without network access. About ten minutes.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
for name, value in {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}.items():
    os.environ.setdefault(name, value)

TIMEOUT_S = 60
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 3, 65, 0.5, -0.5, 1e308, "", "x", "auto", "null", "float16", "torch.bfloat16", "llama",
    "\u0000", "\ud83d", "河", "../x", "/", "~", "1e-9", [], [None], ["x"], [[1]], {}, {"x": None}, {"a": {"b": [1]}},
]  # fmt: skip
KEYS = [
    "architectures", "auto_map", "attn_implementation", "bos_token_id", "chat_template", "compression_config",
    "do_sample", "dtype", "eos_token_id", "head_dim", "hidden_act", "hidden_size", "intermediate_size", "is_decoder",
    "is_encoder_decoder", "layer_types", "max_position_embeddings", "model_type", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "pad_token_id", "quantization", "quantization_config", "return_dict",
    "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "text_config", "tie_word_embeddings",
    "tokenizer_class", "torch_dtype", "transformers_version", "use_cache", "vocab_size", "weight_map", "added_tokens",
]  # fmt: skip


# Mutations


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values in a JSON document."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def change_json(text: str, dice: random.Random) -> str:
    """Replace, add or remove a value somewhere, or repeat an object's own keys."""
    document = json.loads(text)
    path = dice.choice([*places(document)][:400])
    if not path:
        return json.dumps(dice.choice(JUNK))
    owner = document
    for key in path[:-1]:
        owner = owner[key]
    match dice.randrange(4):
        case 0:
            del owner[path[-1]]
        case 1 if isinstance(owner, dict):
            owner[dice.choice(KEYS)] = dice.choice(JUNK)
        case _:
            owner[path[-1]] = dice.choice(JUNK)
    return json.dumps(document)


def change_text(content: bytes, dice: random.Random) -> bytes:
    """Damage any file: truncate, empty, change bytes, change the encoding, nest deeply."""
    middle = dice.randrange(len(content) + 1)
    return dice.choice([
        content[:middle], b"", b"\xff\xfe" + content, b"\xef\xbb\xbf" + content,
        content[:middle] + b"\0\xff" + content[middle:],
        content + b"]}", b"[" * 3000, b'{"a":' * 3000, b"null", b"[]", b'"text"', b"{}", b"NaN",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    ])  # fmt: skip


def change_file(path: Path, dice: random.Random) -> None:
    """Change one file of a folder: its JSON, its bytes, or its kind."""
    content, kind = path.read_bytes(), dice.random()
    if kind < 0.7 and path.suffix == ".json":
        with contextlib.suppress(ValueError, RecursionError):
            path.write_text(change_json(content.decode(), dice), encoding="utf-8", errors="surrogatepass")
    elif kind < 0.9:
        path.write_bytes(change_text(content, dice))
    else:
        path.unlink()
        match dice.randrange(3):
            case 0:
                path.mkdir()
            case 1:
                path.symlink_to("nowhere")


def change_weights(path: Path, dice: random.Random) -> None:
    """Make tensors missing, renamed, of other shapes or dtypes, not finite, or unexpected."""
    import torch
    from safetensors.torch import load_file, save_file

    held = load_file(path)
    key = dice.choice(sorted(held))
    match dice.randrange(7):
        case 0:
            del held[key]
        case 1:
            held[dice.choice(["x", "model." + key, key.replace("model.", ""), key + ".x"])] = held.pop(key)
        case 2:
            held[key] = held[key][..., :1].contiguous()
        case 3:
            held[key] = held[key].to(dice.choice([torch.float32, torch.int8, torch.int64, torch.float64, torch.bool]))
        case 4:
            held[key] = torch.full_like(held[key], dice.choice([float("nan"), float("inf"), 0.0]))
        case 5:
            held[key] = held[key].new_zeros(dice.choice([(), (0,), (1, 2, 3)]))
        case _:
            name = dice.choice(["lm_head.weight", "model.layers.9.mlp.up_proj.weight", "extra", key + ".bias"])
            held[name] = held[key].clone()
    save_file(held, path, metadata=dice.choice([{"format": "pt"}, None, {"format": "tf"}]))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def change_folder(folder: Path, dice: random.Random) -> None:
    """Apply one to three changes, most often to the config."""
    for _ in range(dice.choice([1, 1, 2, 3])):
        files = files_of(folder)
        configs = [path for path in files if path.name in ("config.json", "generation_config.json")]
        path = dice.choice(configs if configs and dice.random() < 0.5 else files)
        if path.suffix == ".safetensors" and dice.random() < 0.7:
            with contextlib.suppress(Exception):  # an earlier change may have removed all tensors
                change_weights(path, dice)
        else:
            change_file(path, dice)


# Cases


class Bench:
    """Valid models and files to mutate, and a folder for each case."""

    def __init__(self, root: Path) -> None:
        import conftest

        self.root, self.case = root, root / "case"
        os.environ |= {f"LSPRISM_{name}": str(root / name.lower()) for name in ("STATE", "TRAITS")}
        self.models = [conftest.make_model(root / "tiny"), conftest.make_model(root / "tied", tied=True, bias=True)]
        self.models.append(self._gpt2(root / "gpt2"))
        words = random.Random(0).choices(conftest.WORDS[3:], k=600)
        (root / "text.txt").write_text(" ".join(words))
        self.least = ["--method", "wanda", "--calibration", str(root / "text.txt"), "--samples", "2", "--length", "16"]
        self.artifact, self.report = root / "artifact", root / "report"
        for words in (self.compression(self.artifact), self.evaluation(self.artifact, self.report)):
            assert run(words)[0] == 0
        shutil.copytree(root / "state", root / "states")

    def _gpt2(self, folder: Path) -> Path:
        import odd_folders

        shutil.copytree(self.models[0], folder)
        odd_folders.family("gpt2", max_position_embeddings=64)(folder)
        return folder

    def compression(self, place: Path, *more: str) -> list[str]:
        """Options that compress the first model, which is valid."""
        return ["compress", "--model-id", str(self.models[0]), "--save-path", str(place), *self.least, *more]

    def evaluation(self, model: Path, place: Path) -> list[str]:
        asked = ["--measures", "sizes,perplexity", "--context", "16", "--quick"]
        asked += ["--dataset", str(self.root / "text.txt")]
        return ["evaluate", "--model-id", str(model), "--save-path", str(place), "--resume", *asked]

    def fresh(self) -> Path:
        """An empty folder for a case; state and cache are reset."""
        for folder in (self.case, self.root / "state"):
            shutil.rmtree(folder, ignore_errors=True)
        self.case.mkdir()
        return self.case

    def verbs(self, model: Path, dice: random.Random) -> list[str]:
        out = self.case / "out"
        named, sparsity = ["--model-id", str(model)], dice.choice(["0.5", "0.9999", "1e-9"])
        return dice.choice([
            ["inspect", *named], ["inspect", *named, "--json"], ["check-stats", *named, *self.least[2:]],
            ["compress", *named, *self.least, "--save-path", str(out)],
            ["compress", *named, *self.least[2:], "--save-path", str(out), "--sparsity", sparsity],
            ["generate", *named, "--prompt", dice.choice(["the river", "", "x"]), "--max-new-tokens", "2"],
            ["export", *named, "--save-path", str(out)],
            self.evaluation(model, out), ["spectra", *named, "--save-path", str(self.case / "spectra.jsonl")],
        ])  # fmt: skip


def run(words: list[str]) -> tuple[int, str]:
    """Exit code and output of one command."""
    from lsprism.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        return main(words), said.getvalue()


def command(words: list[str]) -> str:
    """Run it; its outcome is its exit code. A refusal is a line 'error ...' with a hint below."""
    code, said = run(words)
    if code == 130:  # interrupted from outside
        raise KeyboardInterrupt
    lines = said.splitlines()
    if code:
        start = next((n for n, line in enumerate(lines) if line.startswith("error ")), None)
        assert start is not None and len(lines) > start + 1, f"no error with a hint: {said[-300:]!r}"
    assert "Traceback" not in said, said
    assert code in (0, 1, 2), code
    return f"exit {code}"


def expecting_refusal(work: Callable[[], Any]) -> str:
    """For functions without a command: they may raise an error for users."""
    from lsprism.errors import LSPrismError

    try:
        work()
    except LSPrismError as error:
        assert error.message and error.hint
        return f"refused ({type(error).__name__})"
    return "taken"


def folder(bench: Bench, dice: random.Random) -> str:
    """A model folder."""
    model = shutil.copytree(dice.choice(bench.models), bench.fresh() / "model")
    change_folder(model, dice)
    return command(bench.verbs(model, dice))


def artifact(bench: Bench, dice: random.Random) -> str:
    """An artifact; half of the time its manifest is updated after the change."""
    from lsprism.artifact.manifest import MANIFEST, build_manifest, write_json

    made = shutil.copytree(bench.artifact, bench.fresh() / "made")
    change_folder(made, dice)
    if dice.random() < 0.5 and (made / MANIFEST).is_file():
        write_json(made / MANIFEST, build_manifest(made))
    if dice.random() < 0.3:
        resume = dice.choice([["--resume"], ["--force"], ["--resume", "--force"]])
        return command(bench.compression(made, *resume))
    return command(bench.verbs(made, dice))


def unfinished(bench: Bench, dice: random.Random) -> str:
    """A damaged OUT.part."""
    part = shutil.copytree(bench.artifact, bench.fresh() / "out.part")
    (part / "lsprism" / "manifest.json").unlink()
    shutil.copy(part / files_of(part)[-1].name, part / "stream.safetensors") if dice.random() < 0.5 else None
    change_folder(part, dice)
    resume = dice.choice([["--resume"], ["--force"], [], ["--resume", "--force"]])
    return command(bench.compression(part.with_suffix(""), *resume))


def odd_line(dice: random.Random) -> str:
    odd = ["a\nb", " ", "- x", "&a", "*a", "!!int x", "2:4", "0.5", "2020-13-45", "0o9", "[", "{", "|", ">"]
    value = dice.choice([*JUNK, *odd])
    key = dice.choice([*OPTIONS, *OPTIONS, "x", "", "?", "~", "- a", "[a]", "<<", "calibration", "model_path"])
    shown = value if isinstance(value, str) else json.dumps(value)
    return dice.choice(["{}: {}", "{}: {}", "{}: '{}'", "{} {}", '{}: "{}"', "{}:\n  {}: {}"]).format(key, shown, shown)


OPTIONS = ["model-id", "save-path", "sparsity", "method", "samples", "length", "seed", "pattern", "allocation",
           "column", "revision", "device", "dtype", "rank-share", "resume", "values", "effort",
           "heal-minutes"]  # fmt: skip


CONFIGURED = ("compress", "inspect", "evaluate", "sweep")


def settings(bench: Bench, dice: random.Random) -> str:
    """YAML files and options, for a model that does not exist."""
    file = bench.fresh() / "run.yaml"
    text = "\n".join(odd_line(dice) for _ in range(dice.randrange(5))).encode("utf-8", "surrogatepass")
    file.write_bytes(change_text(text, dice) if dice.random() < 0.2 else text)
    words = []
    for _ in range(dice.choice([0, 1, 1, 2])):
        value = str(dice.choice([*JUNK, "n" * 300, "", "-1", "0.5", "a/b", "a/b.c", "--x", "\udcff", "~nobody/x"]))
        words += dice.choice([[f"--{dice.choice(OPTIONS)}={value}"], [f"--{dice.choice(OPTIONS)}", value], [value]])
    verb = dice.choice([*CONFIGURED, *CONFIGURED, "export", "generate", "benchmark", "spectra", "runs"])
    config = [f"--config={file}"] if verb in CONFIGURED and dice.random() < 0.7 else []
    least = {"generate": ["--prompt=x"], "benchmark": ["--task=logic"], "export": ["--save-path=x"]}.get(verb, [])
    with contextlib.chdir(bench.case):
        return command([verb, *config, "--model-id=./nothing", *least, *words])


def form(bench: Bench, dice: random.Random) -> str:
    """YAML and values of the dashboard's form."""
    from lsprism.ui.form_values import make_spec, parse_yaml

    if dice.random() < 0.5:
        text = "\n".join(odd_line(dice) for _ in range(dice.randrange(5)))
        return expecting_refusal(lambda: parse_yaml(text))
    names = [name.replace("-", "_") for name in OPTIONS]
    values = {dice.choice(names): dice.choice(JUNK) for _ in range(4)}
    return expecting_refusal(lambda: make_spec(values))


def prompts(bench: Bench, dice: random.Random) -> str:
    """A file of prompts."""
    from lsprism.evaluation.tasks import load_task

    check = {"kind": dice.choice(["number", "contains", "regex", "json", "x"]), "value": dice.choice(JUNK)}
    row = {"id": "a", "prompt": "the river", "reference": "the stone", "checks": [check], "max_new_tokens": 3}
    text = json.dumps(row)
    lines = [change_json(text, dice) if dice.random() < 0.6 else text for _ in range(dice.randrange(3))]
    file = bench.fresh() / dice.choice(["p.jsonl", "p.json", "P.JSONL", "p.txt"])
    content = "\n".join(lines).encode()
    file.write_bytes(change_text(content, dice) if dice.random() < 0.3 else content)
    return expecting_refusal(lambda: load_task(str(file)))


def texts(bench: Bench, dice: random.Random) -> str:
    """A file of text: lines, rows, or columns of parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    from lsprism.calibration.corpus import read_text

    file = bench.fresh() / dice.choice(["t.txt", "t.jsonl", "t.parquet", "t.PARQUET", "t.csv", "t"])
    if file.suffix.lower() == ".parquet":
        column = dice.choice([["a", None], [1, 2], [None], [], [["a"]], [{"a": 1}], [b"\xff"], [1.5]])
        parquet.write_table(pa.table({dice.choice(["text", "x", ""]): column}), file)
        content = file.read_bytes()
    else:
        row = {"text": "the river", "more": 1}
        rows = [change_json(json.dumps(row), dice) if dice.random() < 0.5 else json.dumps(row) for _ in range(3)]
        content = "\n".join(rows).encode()
    file.write_bytes(change_text(content, dice) if dice.random() < 0.5 else content)
    return expecting_refusal(lambda: read_text(str(file), dice.choice(["text", "text", "more", "", "\ud800"])))


def report(bench: Bench, dice: random.Random) -> str:
    """Compare a damaged evaluation report, or resume from damaged metrics."""
    made = shutil.copytree(bench.report, bench.fresh() / "out")
    if dice.random() < 0.3:
        change_file(dice.choice(files_of(made / "figures")), dice)
        return command(bench.evaluation(bench.artifact, made))
    file = made / "report.json"
    for _ in range(dice.choice([1, 1, 3])):
        if file.is_file() and not file.is_symlink():
            change_file(file, dice)
    return command(["compare", str(dice.choice([made, file])), "--format", dice.choice(["table", "csv", "markdown"])])


def record(bench: Bench, dice: random.Random) -> str:
    """Runs with damaged records and events."""
    bench.fresh()
    state = shutil.copytree(bench.root / "states", bench.root / "state")
    for _ in range(dice.choice([1, 2, 4])):
        if files := files_of(state / "runs"):
            change_file(dice.choice(files), dice)
    runs = sorted(path.name for path in (state / "runs").iterdir())
    action = dice.choice(["show", "log", "delete", "stop", "list"])
    return command(["runs", action, *([] if action == "list" else [dice.choice([*runs, runs[0][:9], "x"])])])


KINDS: dict[str, tuple[int, Callable[[Bench, random.Random], str]]] = {  # percentage, and the function
    "folder": (26, folder), "artifact": (8, artifact), "unfinished": (4, unfinished), "settings": (24, settings),
    "form": (8, form), "prompts": (8, prompts), "texts": (8, texts), "report": (7, report), "record": (7, record),
}  # fmt: skip


def check(bench: Bench, kind: str, seed: int, number: int) -> str:
    """The outcome of one case; unexpected exceptions are not caught."""
    return KINDS[kind][1](bench, random.Random(f"{kind} {seed} {number}"))


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after this many seconds of CPU time, however busy the machine is."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def sweep(bench: Bench, seed: int, count: int) -> int:
    """Run all kinds in their proportions; return the number of failures."""
    failed = 0
    for kind, (share, _) in KINDS.items():
        outcomes, started = Counter(), time.monotonic()
        for number in range(round(count * share / 100)):
            try:
                with at_most(TIMEOUT_S):
                    outcomes[check(bench, kind, seed, number)] += 1
            except BaseException as error:  # noqa: B036 - whatever it is, it is what is looked for
                if isinstance(error, KeyboardInterrupt):
                    raise
                failed += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                text = " ".join(str(error).split())[:160]
                print(f"FAILED {kind}:{seed}:{number}  {type(error).__name__}: {text}  {where.filename}:{where.lineno}")
        found = ", ".join(f"{outcome} {times}" for outcome, times in sorted(outcomes.items()))
        print(f"{kind}: {sum(outcomes.values())} ({found}) in {time.monotonic() - started:.0f} s", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", metavar="KIND:SEED:NUMBER", help="run only this case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root))
        if options.case:
            kind, seed, number = options.case.split(":")
            print(check(bench, kind, int(seed), int(number)))
            return 0
        failed = sweep(bench, options.seed, options.count)
    print(f"{failed} failed" if failed else "none failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
