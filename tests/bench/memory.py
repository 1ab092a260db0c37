"""Peak memory of a compression: VmHWM of a child process, minus that of one that only imports the package.

    python tests/bench/memory.py --blocks 6,22 --methods wanda --out memory.json

The model is a random Llama of TinyLlama's shape (1.1 B at 22 blocks) in bfloat16, created here. Each row also has the
estimate of the plan. Rows in --out are not measured again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HWM = "next(int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith('VmHWM'))"
IMPORTS = f"import lsprism.api; print({HWM})"
COMPRESS = f"""
import sys, json, lsprism.api
from lsprism.specs import CompressSpec
for event in lsprism.api.stream_compress(CompressSpec.model_validate_json(sys.argv[1])): pass
print({HWM})
"""


def tinyllama(folder: Path, blocks: int, tokenizer: Path) -> None:
    """Write random weights one block at a time, so that creating the model needs little memory too."""
    import shutil

    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, LlamaConfig

    vocabulary = AutoConfig.from_pretrained(tokenizer).vocab_size
    config = LlamaConfig(
        vocab_size=max(32000, vocabulary),
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=blocks,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    torch.manual_seed(0)
    h, f, kv, v = 2048, 5632, 256, config.vocab_size
    shapes = {"self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h)}
    shapes |= {"self_attn.o_proj": (h, h), "mlp.gate_proj": (f, h), "mlp.up_proj": (f, h), "mlp.down_proj": (h, f)}
    weight_map = {}

    def write(number: int, tensors: dict) -> None:
        name = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))

    for i in range(blocks):
        at = f"model.layers.{i}."
        tensors = {f"{at}{k}.weight": torch.randn(s).mul_(0.02).bfloat16() for k, s in shapes.items()}
        tensors |= {
            f"{at}{k}.weight": torch.ones(h).bfloat16() for k in ("input_layernorm", "post_attention_layernorm")
        }
        write(i, tensors)
    write(blocks, {"model.embed_tokens.weight": torch.randn(v, h).mul_(0.02).bfloat16()})
    write(
        blocks + 1,
        {"lm_head.weight": torch.randn(v, h).mul_(0.02).bfloat16(), "model.norm.weight": torch.ones(h).bfloat16()},
    )
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def child(code: str, *arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.split()[-1])


def measure(model: str, blocks: int, method: str, work: Path, options: argparse.Namespace) -> dict:
    from lsprism import api
    from lsprism.specs import CompressSpec

    calibration = {"source": options.calibration, "samples": options.samples, "length": options.length}
    settings = {"method": method, "calibration": calibration, "compute_dtype": options.compute_dtype}
    spec = CompressSpec(model_id=model, save_path=work / "out", **settings)
    plan = api.plan_from_spec(spec)
    baseline = child(IMPORTS)
    peak = child(COMPRESS, spec.model_dump_json())
    return {
        "blocks": blocks,
        "method": method,
        "compute_dtype": plan.compute_dtype,
        "samples": options.samples,
        "length": options.length,
        "imports_bytes": baseline,
        "compress_bytes": peak,
        "peak_bytes": peak - baseline,
        "hidden_state_bytes": plan.memory.hidden_states,
        "expected_bytes": plan.memory.total,
        "expected_over_measured": plan.memory.total / (peak - baseline),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="measure this model instead of the random one")
    parser.add_argument("--blocks", default="6,22")
    parser.add_argument("--methods", default="wanda")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--compute-dtype", default="auto", help="dtype for products of many tokens, as for compress")
    parser.add_argument("--calibration", default="embedded", help="text, as for compress")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="folder for the random model")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    from lsprism.models.demo import get_demo_folder

    rows = json.loads(options.out.read_text()) if options.out and options.out.exists() else []
    for blocks in [0] if options.model else [int(n) for n in options.blocks.split(",")]:
        for method in options.methods.split(","):
            key = (options.model or "random", blocks, method, options.samples, options.length)
            if key in [(r["model"], r["blocks"], r["method"], r["samples"], r["length"]) for r in rows]:
                continue
            with tempfile.TemporaryDirectory(dir=options.work) as work:
                model = options.model or f"{work}/random-{blocks}"
                if not options.model:
                    tinyllama(Path(model), blocks, get_demo_folder())
                row = measure(model, blocks, method, Path(work), options)
                rows.append({"model": options.model or "random", **row})
            print(json.dumps(rows[-1]))
            if options.out:
                options.out.write_text(json.dumps(rows, indent=2))
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
