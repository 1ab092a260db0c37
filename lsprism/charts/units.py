"""Numbers as people read them."""


def size(count: float) -> str:
    """Bytes in the unit that reads best; 1 MB = 10^6 bytes, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 99.95 else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """'1 h 05 min', '2 min 10 s', '9 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def amount(number: float) -> str:
    """'76.1 million', '8.03 billion', '512'."""
    for word, unit in (("billion", 1e9), ("million", 1e6), ("thousand", 1e4)):
        if number >= unit:
            return f"{number / (1e3 if word == 'thousand' else unit):.3g} {word}"
    return f"{number:,.0f}"
