"""Numbers as text: bytes, seconds and parameter counts, written the same way everywhere."""


def format_size(count: float) -> str:
    """'9 B', '1.3 kB', '176 MB', '16.1 GB': three digits; 1 MB = 10^6 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 99.95 else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def format_duration(seconds: float) -> str:
    """'1 h 05 min', '2 min 10 s', '9 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def format_rough_duration(seconds: float) -> str:
    """For estimates: whole minutes from 90 seconds on ('5 min', '1 h 05 min'), seconds below ('45 s')."""
    if seconds < 90:
        return format_duration(seconds)
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def format_amount(number: float) -> str:
    """'76.1 million', '8.03 billion', '512'."""
    for word, unit in (("billion", 1e9), ("million", 1e6), ("thousand", 1e4)):
        if number >= unit:
            return f"{number / (1e3 if word == 'thousand' else unit):.3g} {word}"
    return f"{number:,.0f}"
