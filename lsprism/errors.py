"""Errors for users: one sentence on what is wrong, with the value, and a hint with the next step.

    LSPrismError
    ├── RequestError            the request cannot be fulfilled; nothing was started   exit code 2
    │   ├── SpecError           a setting is out of range or unknown
    │   ├── SourceError         the model cannot be found or downloaded, or is not supported
    │   ├── CorpusError         the text cannot be found or read, or is too short
    │   ├── TargetError         the output folder exists or cannot be written
    │   └── ResourceError       not enough memory or disk space, by estimate
    └── WorkError               the run failed; the source model is unchanged          exit code 1
        ├── DamagedError        a file is truncated, altered or in another format (exit code 2)
        ├── NumericError        NaN or infinity in weights, statistics or logits
        └── DiskError           a file cannot be written

Any other exception is a bug.
"""


class LSPrismError(Exception):
    """Base class of all errors for users; `hint` is the next step.

    `cli_hint` replaces it if the next step exists on the command line only, such as --help.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", *, cli_hint: str = "") -> None:
        super().__init__(message)
        self.message = _replace_surrogates(message)
        self.hint = _replace_surrogates(hint)
        self.cli_hint = _replace_surrogates(cli_hint)

    def __str__(self) -> str:
        return f"{self.message} {self.hint or self.cli_hint}".strip()


def _replace_surrogates(text: str) -> str:
    """Escape lone surrogates, which texts quoted from files may contain and which cannot be encoded."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class RequestError(LSPrismError):
    """The request cannot be fulfilled; nothing was started."""

    exit_code = 2


class SpecError(RequestError):
    """A setting is out of range, unknown, or conflicts with another one."""


class SourceError(RequestError):
    """The model cannot be found or downloaded, or is not supported."""


class CorpusError(RequestError):
    """The text or prompts cannot be found or read, or are too short."""


class TargetError(RequestError):
    """The output folder exists, is in use, or cannot be written."""


class ResourceError(RequestError):
    """Not enough memory or disk space, by estimate."""


class WorkError(LSPrismError):
    """The run failed; the source model is unchanged."""


class DamagedError(WorkError):
    """A file is missing, truncated, altered, or in another format."""

    exit_code = 2  # the input is invalid, even if that is noticed during the run


class NumericError(WorkError):
    """Weights, statistics or logits contain NaN or infinity."""


class DiskError(WorkError):
    """A file cannot be written, for example because the disk is full."""
