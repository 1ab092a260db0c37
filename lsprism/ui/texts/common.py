"""Texts of the page itself, of runs as every tab shows them, and of downloads."""

# Page
NAME = "LS-PRISM"
TAGLINE = "Compress language models and measure what it costs."
DARK_MODE = "Toggle dark mode"
TABS = {"compress": "Compress", "layers": "Layers", "evaluate": "Evaluate", "chat": "Chat", "runs": "Runs"}
ERROR = "Error"
DEVICES = "auto, cpu, cuda or cuda:N"

# Models
DEMO = "demo (SmolLM2-135M-Instruct)"
AT_SPARSITY = "{method} at {sparsity:g}"
OF_SWEEP = "{name} · sweep {run}"

# Buttons of a run
START = "Start"
STOP = "Stop"
RESUME = "Resume"
LOG = "Log"

# What a run is called
SWEEP = "sweep {sparsities}"
SPECTRA = "singular values of {model}"
UNKNOWN = "unknown"

# State
STATES = {
    "queued": "queued",
    "running": "running",
    "stopping": "stopping",
    "stopped": "stopped",
    "done": "done",
    "failed": "failed",
    "lost": "lost",
    "damaged": "record damaged",
}
OTHER_RUNS = "Other active runs"
QUEUED = "Queued behind {ahead}"
ONE_RUN, RUNS = "1 run", "{count} runs"
NEXT = "Starting…"

# Progress
PROGRESS = "progress"
STARTING = "starting"
BLOCK = "block {block} of {count} · {step}"
STEPS = {
    "teach": "running the dense block",
    "measure": "collecting statistics",
    "compress": "compressing",
    "learn": "reconstructing",
    "propagate": "propagating activations",
}
DISTILLATION = "step {step} of {count} · distillation"
LEFT = "{time} left"
ESTIMATING = "estimating time left"
TOOK = "took {time}"

# Layers of a run
LAYER_ERROR = "block {block}, {layer}: output error {error:.1%}"
LARGEST_ERROR = "largest output error {error:.1%}"
LARGEST_ERROR_SO_FAR = "largest output error so far {error:.1%}"
BLOCKS_DONE = "{done} of {count} blocks"
BLOCKS_DONE_LABEL = "{done} of {count} blocks are done"

# Result of a compression
SIZE = "Size on disk"
PARAMETERS = "Parameters kept"
ERROR_MEAN = "Mean output error"
PEAK_MEMORY = "Peak memory"
CALIBRATION = "Calibration"
ARTIFACT = "Artifact"
SIZE_OF = "{after} of {before}"
PARAMETERS_OF = "{share:.0%} ({kept} of {all})"

# Downloads
DOWNLOAD = "Download"
CHART_AS_PNG = "PNG: camera icon on each chart"

# Requests that the server refuses
WRONG_HOST = "Invalid Host header."
WRONG_ORIGIN = "Cross-origin request refused."
