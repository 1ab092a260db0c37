"""The metric next-token-accuracy: how often the most likely token is the next token of the text."""

from lsprism.metric_declarations import Column, Metric, MetricValues


def measure(given):
    """Yield progress per window; torch and the modules of the evaluation are imported only when it runs."""
    from lsprism.evaluation.progress import track_items

    windows = given.windows
    hits = yield from track_items(METRIC.name, count_hits(given.model, windows), len(windows.tokens))
    protocol = (
        f"Next-token accuracy: {windows.predicted:,} tokens of {windows.text}, "
        f"{len(windows.tokens)} of {windows.of} windows of {windows.context} tokens; "
        f"{given.model.dtype} on {given.model.device}."
    )
    return MetricValues({"next_token": sum(hits) / windows.predicted}, protocol)


def count_hits(model, windows):
    """The number of tokens of each window that the model predicts."""
    import torch

    for tokens in windows.tokens.to(model.device).split(1):
        with torch.inference_mode():
            likely = model(input_ids=tokens, use_cache=False).logits.argmax(-1)
        yield int((likely[:, windows.given - 1 : -1] == tokens[:, windows.given :]).sum())


METRIC = Metric(
    name="next-token-accuracy",
    summary="Next-token accuracy: how often the most likely token is the next one",
    columns=(Column("next_token", "next token", "{:.1%}", "higher"),),
    needs_text=True,
    measure=measure,
)
