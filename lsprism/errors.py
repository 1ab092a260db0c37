"""Every error meant for a person: what is wrong, with the value, and a hint that names the next step.

    LSPrismError
    ├── RequestError            asked for the impossible; nothing was started          exit code 2
    │   ├── SpecError           a value of the request is out of range or unknown
    │   ├── SourceError         the model cannot be found, reached or understood
    │   ├── CorpusError         the text cannot be found, read or is too short
    │   ├── TargetError         the folder to write to is taken
    │   └── ResourceError       not enough memory or disk by estimate
    └── WorkError               failed while working; the source is untouched          exit code 1
        ├── DamagedError        a file on disk is truncated, altered or of another format (exit code 2)
        ├── NumericError        weights or statistics that are not finite numbers
        └── DiskError           the disk refused a write

Anything else that is raised is a bug.
"""


class LSPrismError(Exception):
    """Base of all errors meant for a person; `hint` says what to do next.

    `cli_hint` takes its place where the next step exists on the command line only, such as --help.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", *, cli_hint: str = "") -> None:
        super().__init__(message)
        self.message = _writable(message)
        self.hint = _writable(hint)
        self.cli_hint = _writable(cli_hint)

    def __str__(self) -> str:
        return f"{self.message} {self.hint or self.cli_hint}".strip()


def _writable(text: str) -> str:
    """What is quoted from files may hold half of a surrogate pair, which nothing can write."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class RequestError(LSPrismError):
    exit_code = 2


class SpecError(RequestError):
    pass


class SourceError(RequestError):
    pass


class CorpusError(RequestError):
    pass


class TargetError(RequestError):
    pass


class ResourceError(RequestError):
    pass


class WorkError(LSPrismError):
    pass


class DamagedError(WorkError):
    exit_code = 2  # what was given cannot be used, whenever that is found out


class NumericError(WorkError):
    pass


class DiskError(WorkError):
    pass
