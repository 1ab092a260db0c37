"""Texts of the tab Evaluate; titles and axes of its charts are in lsprism.charts."""

from lsprism.ui.texts import Pair, get_field_texts

# Sweep
SWEEP = "Sweep: 0.3 and 0.5"
SWEEP_INFO = (
    "Compresses the model to sparsity 0.3 and 0.5, evaluates both against the base model under one protocol, and"
    " recommends one."
)
MODEL = get_field_texts("Model")
METHOD = get_field_texts("Method")
RUN_SWEEP = "Run sweep"

# Evaluation
EXISTING = "Evaluate existing models"
MODELS = get_field_texts("Models", "Each is compared with its base model")
METRICS = get_field_texts("Metrics")
EVALUATE = "Evaluate"
QUICK = get_field_texts("Quick (subset)", "4 windows, 3 prompts per task; labeled as a subset")

# Details
DETAILS = "Details"
DATASET = get_field_texts(
    "Text for perplexity and KL",
    "auto, wikitext2, embedded, a Hub dataset OWNER/NAME, or a .txt, .jsonl or .parquet file",
)
BASELINE = get_field_texts("Baseline", "auto = base model, none, or any model")
CONTEXT = get_field_texts("Tokens per window", "0 = 2048 if possible")
WINDOWS = get_field_texts("Max windows", "0 = all")
LIMIT = get_field_texts("Max prompts per task", "0 = all")
ZERO_SHOT_TASKS = get_field_texts("Zero-shot tasks")
ZERO_SHOT_LIMIT = get_field_texts("Max examples per task", "0 = all")
DEVICE = "Device"

# Results
IDLE: Pair = ("No evaluation running", "A single metric takes minutes; a sweep of the demo takes longer.")
NO_BOARD: Pair = ("No results yet", "Finished evaluations with sizes and perplexity appear here as points.")
NO_REPORT: Pair = ("Nothing to compare", "Select finished evaluations above, or evaluate a model.")
BOARD = "Size, quality and speed"
COMPARE = get_field_texts("Compare", "Finished evaluations and sweeps")
HTML_REPORT = "Download HTML report"
PROTOCOL = "Measurement protocol"
RECOMMENDED = "Recommended: {choice}."
NONE_RECOMMENDED = "No model meets the rule."

# Errors
NO_METRIC: Pair = ("No metric selected.", "Select at least one.")
NO_MODELS: Pair = ("No model selected.", "Select an artifact, or enter a Hub id or a local folder.")
