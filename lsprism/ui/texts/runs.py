"""Texts of the tab Runs."""

from lsprism.ui.texts import Pair, get_field_texts

# List
HEADERS = ("Run", "State", "Size", "Duration", "Created", "Notes", "ID")
NO_RUNS: Pair = ("No runs yet", "Start a compression in the tab Compress or from the command line; it appears here.")

# One run
NOT_SELECTED: Pair = ("No run selected", "Select a run to see its metrics, its log and what you can do with it.")
ID = "ID"
STARTED = "Started"
STARTED_FROM = "{time} from the {origin}"
DURATION = "Duration"
OUTPUT = "Output"
FOLDER = "Run folder"
COMMAND = "Command"
LINK = "Link to this run"
LAYERS = "Layers"
PROGRESS = "Progress"
DELETE = "Delete…"
NOTES = get_field_texts("Notes")
COMPARE = get_field_texts("Compare with")

# Metrics, by their names in the report of a run
METRICS = {
    "stored_bytes": "Size on disk",
    "dense_stored_bytes": "Original size",
    "kept_parameters": "Parameters kept",
    "model_parameters": "Original parameters",
    "seconds": "Compute time",
    "peak_memory_bytes": "Peak memory",
    "calibration": "Calibration",
    "perplexity": "Perplexity",
    "baseline_perplexity": "Baseline perplexity",
    "agreement.kl": "KL to the baseline",
    "agreement.top1": "Top-1 agreement",
    "tokens_per_s": "Decode speed",
    "baseline_tokens_per_s": "Baseline decode speed",
    "speedup": "Decode speedup",
}
TOKENS_PER_S = "{:.1f} tok/s"
RATIO = "{:.2f}x"

# Deletion
CONFIRM = "Delete this run and its folder? This cannot be undone."
ARTIFACT_STAYS = "The artifact is kept at {place}"
ARTIFACT_TOO = "To delete it as well, type this path"
KEEP = "Cancel"
DELETE_NOW = "Delete"
DELETED = "Run deleted."
STILL_ACTIVE: Pair = ("Run {run} is {state}.", "Stop it first.")
