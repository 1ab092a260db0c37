"""Checks that live speeds are fair: tok/s of each model in the side-by-side chat against the same model alone.

    python tests/bench/chat_speed.py --left demo --right output/demo-0.5 --out chat_speed.json

One worker process holds both models. A round is: left alone, right alone, both together, left alone, right alone, with
the same prompt and number of tokens, EOS ignored. The medians over the rounds are compared. Exit code 1 if a model
differs by more than --within. Rounds in --out are not measured again.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]


def speeds(talk, seats: dict, options: argparse.Namespace, *slots: str) -> dict[str, float]:
    """Tokens per second of each model."""
    from lsprism.specs import GenerateSpec

    spec = GenerateSpec(max_new_tokens=options.tokens, greedy=True, ignore_eos=True)
    answers = talk.generate(seats, {slot: options.prompt for slot in slots}, spec).wait().answers
    for answer in answers.values():
        if answer.failure:
            raise SystemExit(answer.failure)
    return {slot: answer.timing.tokens_per_s for slot, answer in answers.items()}


def round_of(talk, seats: dict, options: argparse.Namespace) -> dict:
    alone: dict[str, list[float]] = {slot: [] for slot in seats}

    def each_alone() -> None:
        for slot in seats:
            alone[slot] += speeds(talk, seats, options, slot).values()

    each_alone()
    together = speeds(talk, seats, options, *seats)
    each_alone()
    return {"alone": alone, "together": together}


def summary(rounds: list[dict], slots: list[str]) -> dict:
    """Medians, and the ratio together / alone."""
    found = {}
    for slot in slots:
        alone = median(speed for one in rounds for speed in one["alone"][slot])
        together = median(one["together"][slot] for one in rounds)
        found[slot] = {"alone": alone, "together": together, "ratio": together / alone}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--left", default="demo", help="left model")
    parser.add_argument("--right", required=True, help="right model")
    parser.add_argument("--prompt", default="The history of bridges begins with", help="prompt for both models")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per output")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--within", type=float, default=0.1, help="largest accepted relative difference")
    parser.add_argument("--out", type=Path, help="JSON file for the rounds")
    options = parser.parse_args()
    from lsprism.chat import ChatClient, ModelRequest

    seats = {"left": ModelRequest(model_id=options.left), "right": ModelRequest(model_id=options.right)}
    rounds = json.loads(options.out.read_text())["rounds"] if options.out and options.out.exists() else []
    talk = ChatClient()
    speeds(talk, seats, options, *seats)  # loads the models; not counted
    while len(rounds) < options.rounds:
        rounds.append(round_of(talk, seats, options))
        result = {"models": [options.left, options.right], "tokens": options.tokens, "rounds": rounds}
        result["medians"] = summary(rounds, list(seats))
        print(json.dumps(result["medians"]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=2))
    talk.close()
    sys.exit(any(abs(side["ratio"] - 1) > options.within for side in summary(rounds, list(seats)).values()))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
