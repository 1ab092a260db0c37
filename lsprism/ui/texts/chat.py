"""Texts of the tab Chat."""

from lsprism.ui.texts import Pair, get_field_texts

# Models. A and B are the letters of the answers; in a blind test they change places, so these fields are not A and B.
FIRST = get_field_texts("First model")
SECOND = get_field_texts("Second model")
LOAD = "Load both"
UNLOAD = "Unload"
LETTERS = "AB"
MEMORY = "Worker memory: {before} → {after}, {free} free"

# Header of a model
NO_MODEL = "no model"
NOT_LOADED = "Not loaded; loads with the first prompt."
LOADED = "loaded"
ON_DEMAND = "loads on demand"
HIDDEN = "hidden until you vote"
HIDDEN_INFO = "One of the two models above, in random order."
NO_TEMPLATE = "No chat template: prompts are completed as plain text."
PARAMETERS, PARAMETERS_HINT = "Parameters kept", "Embeddings included, and the fraction of the original model"
ZEROS, ZEROS_HINT = "Zeros", "Fraction of zero entries in the linear layers of the blocks"
ONLY_LOW_RANK = "low-rank only"
RANK, RANK_HINT = "Mean rank", "Rank of the low-rank factors, mean over the layers that have them"
NO_RANK = "no factors"
DTYPE, DTYPE_HINT = "dtype, device", "Of the weights in memory"
RESIDENT, RESIDENT_HINT = "In memory", "Bytes of all tensors of the loaded model"
HASH, HASH_HINT = "Weights hash", "First digits of the SHA-256 of all weights; equal for identical models"

# Conversation
NO_MESSAGES: Pair = (
    "No messages yet",
    "Write a prompt below, or pick an example: both models answer. Enter sends, Shift+Enter adds a line, Esc stops.",
)
PROMPT = get_field_texts("Prompt")
PLACEHOLDER = "Message both models…"
SEND = "Send"
STOP = "Stop"
EXAMPLES = {
    "Why is the sky blue?": "Explain in two sentences why the sky is blue.",
    "A recipe": "Write a short recipe for a vegetable soup, with the amounts.",
    "A riddle": "A farmer has 17 sheep, and all but 9 run away. How many are left? Explain.",
    "A story": "Tell the beginning of a story about a lighthouse keeper who finds a letter.",
}
AFTER = {"again": "Regenerate", "edit": "Edit last", "undo": "Undo", "clear": "Clear"}
BLIND = get_field_texts("Blind test")
STATUS = "{what} … "
STATUS_STOP = "Esc stops"
LOADING = "loading a model"
COPY, COPIED = "Copy", "Copied"
EMPTY_OUTPUT = "empty output"
MORE_CHARACTERS = "{start} … ({count:,} more characters)"

# Cost of an answer
SPEED = "{speed:.1f} tok/s"
FIRST_TOKEN = "first token {seconds:.2f} s"
ONE_TOKEN, TOKENS = "1 token", "{count} tokens"
REASONS = {"eos": "", "length": "max tokens reached", "stopped": "stopped", "failed": ""}

# Comparison of two answers
FASTER = "{letter} decodes {factor:.2f}x as fast"
DIVERGENCE = "first difference at token {number}"
IDENTICAL = "identical outputs"
MARK = "First differing token"

# Votes
VOTES = {"a": "A is better", "b": "B is better", "equal": "Tie", "bad": "Both are bad"}
BLIND_VOTE, OPEN_VOTE = "blind vote", "open vote"
NO_VOTES = "No {kind}s on this pair yet."
TALLY = "{total} {kind}{s}:"
COUNTS = "{left} for {left_name}, {right} for {right_name}, {equal} tied, {bad} both bad."
WINS = "{name} wins {share:.0%} of the decided votes (95% interval {low:.0%} to {high:.0%})."

# Settings
SETTINGS = "Settings"
CHAT, COMPLETION = "Chat", "Completion"
MODE = get_field_texts(
    "Mode", "Chat: chat template and earlier turns. Completion: continues the raw prompt, no template."
)
SYSTEM = get_field_texts("System prompt")
GREEDY = get_field_texts("Greedy decoding")
MAX_NEW_TOKENS = get_field_texts("Max new tokens")
SEED = get_field_texts("Seed")
TEMPERATURE = get_field_texts("Temperature", "Below 1: more predictable; above 1: more varied")
TOP_P = get_field_texts("Top-p", "Sample from the smallest set of tokens with this total probability")
TOP_K = get_field_texts("Top-k", "Sample from the k most likely tokens; 0 = all")
REPETITION_PENALTY = get_field_texts("Repetition penalty", "Above 1 discourages repeated tokens")
DEVICE = "Device"
DTYPE_FIELD = get_field_texts("dtype", "For both models")

# Errors
CANNOT_VOTE: Pair = ("Voting needs two loaded models that have both answered.", "Send the prompt again.")
MODEL_MISSING: Pair = ("Two models are required.", "Choose each: demo, an artifact, a Hub id or a local folder.")
