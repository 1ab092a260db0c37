"""Compares the measurements of speed.py with their targets."""

Rows = dict[str, dict]
LARGE, DEMO = ("4096x4096", "14336x4096"), ("576x576", "192x576", "1536x576", "576x1536")


def claims(rows: Rows) -> list[str]:
    """One line per target, for the rows that have been measured."""
    lines = []
    for name, row in rows.items():
        kind, _, what = name.partition(" ")
        if kind == "kernels":
            lines += _of_kernels(what.partition(",")[0], row["ways"])
        elif kind == "decode":
            lines += _of_decode(what, row)
    return lines


def _of_kernels(shape: str, ways: dict) -> list[str]:
    def line(way: str, other: str, bar: float | None) -> str:
        middle, low = (ways[other][key] / ways[way][key] for key in ("us", "low_us"))
        bound = ways[other]["bytes"] / ways[way]["bytes"]
        shares = f"{ways[way]['of_bandwidth']:.0%} and {ways[other]['of_bandwidth']:.0%} of the bandwidth"
        text = f"{shape}: {way} vs. {other} (bound by bytes: {bound:.2f}x), at {shares}"
        return _line(text, middle, low, bar)

    best = min((way for way in ways if way.startswith("torch")), key=lambda way: ways[way]["low_us"])
    large = shape in LARGE
    return [
        line("bitmap 50%", "own dense", 1.5 if large else None),
        line("bitmap 50%", best, 1.5 if large else 1.0 if shape in DEMO else None),
        line("bitmap 30%", "own dense", 1.2 if large else None),
    ]


def _of_decode(what: str, row: dict) -> list[str]:
    bars = _bars(what)
    lines = []
    for name, over in row["compressed_over"].items():
        bar = next((bar for part, bar in bars.items() if name.endswith(part)), None)
        lines.append(_line(f"{what}: decode vs. {name}", over["median"], over["low"], bar))
    share = row["layer_bytes_of_dense"]
    lines.append(f"{_held(share <= 0.58) if '0.5' in what else ''}  {what}: layers take {share:.1%} of dense bytes")
    return lines


def _bars(what: str) -> dict[str, float]:
    """Targets by the suffix of the compared model's name; a random model has only one."""
    if what.startswith("random"):
        return {"plain float16": 1.5}
    if "0.5" in what:
        return {"plain float16": 1.3, "plain bfloat16": 2.2, "llama.cpp F16": 1.0}
    return {"plain float16": 1.1, "plain bfloat16": 1.9} if "0.3" in what else {}


def _line(text: str, middle: float, low: float, bar: float | None) -> str:
    verdict = "       " if bar is None else _held(middle >= bar)
    wanted = "" if bar is None else f", target {bar:.1f}x"
    return f"{verdict}  {text}: {middle:.2f}x (fastest tenth {low:.2f}x){wanted}"


def _held(good: bool) -> str:
    return "reached" if good else "MISSED "
