"""Texts of the tab Evaluate; titles and axes of its charts are in lsprism.charts."""

from lsprism.ui.texts import Pair, field

# Sweep
SWEEP = "Sweep: 0.3 and 0.5"
SWEEP_INFO = (
    "Compresses the model to sparsity 0.3 and 0.5, evaluates both against the base model under one protocol, and"
    " recommends one."
)
MODEL = field("Model")
METHOD = field("Method")
RUN_SWEEP = "Run sweep"

# Evaluation
EXISTING = "Evaluate existing models"
MODELS = field("Models", "Each is compared with its base model")
METRICS = field("Metrics")
EVERY_METRIC = {
    "sizes": "Sizes: parameters kept, bytes on disk and in memory",
    "perplexity": "Perplexity: exp(mean NLL) on held-out text",
    "kl": "KL and top-1: difference from the base model's next-token distribution",
    "text": "Text: similarity to the base model's outputs (BERTScore, ROUGE, embeddings)",
    "speed": "Speed: tokens per second and time to first token",
    "word-perplexity": "Word perplexity: comparable across tokenizers",
    "zero-shot": "Zero-shot: multiple-choice tasks (requires lm-eval)",
}
EVALUATE = "Evaluate"
QUICK = field("Quick (subset)", "4 windows, 3 prompts per task. Results are labeled as a subset.")

# Details
DETAILS = "Details"
DATASET = field(
    "Text for perplexity and KL",
    "auto, wikitext2, embedded, a Hub dataset OWNER/NAME, or a .txt, .jsonl or .parquet file",
)
BASELINE = field("Baseline", "auto = the base model; none = no comparison; or any model")
CONTEXT = field("Tokens per window", "0 = 2048 if the model allows it")
WINDOWS = field("Max windows", "0 = all")
LIMIT = field("Max prompts per task", "0 = all")
ZERO_SHOT_TASKS = field("Zero-shot tasks")
ZERO_SHOT_LIMIT = field("Max examples per task", "0 = all")
DEVICE = "Device"

# Results
IDLE: Pair = ("No evaluation running", "A single metric takes minutes; a sweep of the demo takes longer.")
NO_BOARD: Pair = ("No results yet", "Finished evaluations with sizes and perplexity appear here as points.")
NO_REPORT: Pair = ("Nothing to compare", "Select finished evaluations above, or evaluate a model.")
BOARD = "Size, quality and speed"
COMPARE = field("Compare", "Finished evaluations and sweeps")
HTML_REPORT = "Download HTML report"
PROTOCOL = "Measurement protocol"
RECOMMENDED = "Recommended: {choice}."
NONE_RECOMMENDED = "No model meets the rule."

# Errors
NO_METRIC: Pair = ("No metric selected.", "Select at least one.")
NO_MODELS: Pair = ("No model selected.", "Select an artifact, or enter a Hub id or a local folder.")
