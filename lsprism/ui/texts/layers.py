"""Texts of the tab Layers; titles and axes of its charts are in lsprism.charts."""

from lsprism.ui.texts import Pair, get_field_texts

RUN = get_field_texts("Run")
METRIC = get_field_texts("Metric")
NO_LAYERS: Pair = ("No layer data", "Compress a model, or select a run that has finished at least one block.")

# Singular values
SPECTRA = "Singular values"
COMPUTE = "Compute singular values"
BLOCKS = get_field_texts("Blocks")
PROJECTIONS = get_field_texts("Projections")
HINT = (
    "Fast decay means few important directions (low effective rank). Dotted: before compression; solid: after. "
    "Dashed: rank of the low-rank factors. Circle and diamond: effective rank before and after. "
    "W: original weights; S: sparse part; L: low-rank part."
)
UNAVAILABLE: Pair = ("No singular values yet", "Available once the compression is done.")
NOT_COMPUTED: Pair = (
    "Not computed yet",
    "Takes about a minute for the demo. Runs in the background; the result is cached.",
)
COMPUTING = "Computing… {count} matrices done, shown below."
NO_COMPRESSION: Pair = ("No finished compression is selected.", "Select another run above.")
