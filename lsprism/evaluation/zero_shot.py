"""Zero-shot tasks through lm-eval (Gao et al.: A framework for few-shot language model evaluation) on a loaded model.
The library is an optional dependency; its tasks are downloaded from the Hub."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lsprism.calibration.hub_text import translate_hub_errors
from lsprism.errors import SpecError
from lsprism.evaluation.progress import Steps, track_items
from lsprism.extras import check_extra
from lsprism.models.load import LoadedModel
from lsprism.packed.compute_dtype import apply_compute_dtype, format_compute_dtype
from lsprism.records.metrics import ZeroShotResult

METRICS = ("acc_norm,none", "acc,none")  # the first one a task has; length-normalized accuracy is preferred


def check_library() -> None:
    """Raise RequestError if lm-eval is not installed."""
    check_extra("zero-shot")


def stream_zero_shot(
    loaded: LoadedModel, tasks: Sequence[str], limit: int | None = None, batch: int = 8, manager: Any = None
) -> Steps[ZeroShotResult]:
    """Yield progress per task, then return accuracies in [0, 1]; `limit`: number of examples per task.

    `manager`: a TaskManager of lm-eval with additional tasks. SpecError if lm-eval is missing or a task unknown,
    CorpusError if the Hub cannot be reached.
    """
    check_library()
    results = yield from track_items(
        "zero-shot", (_evaluate_task(loaded, task, limit, batch, manager) for task in tasks), len(tasks)
    )
    found = dict(zip(tasks, results, strict=True))
    return ZeroShotResult(
        accuracy={task: result["value"] for task, result in found.items()},
        stderr={task: result["stderr"] for task, result in found.items()},
        metric={task: result["metric"] for task, result in found.items()},
        examples={task: result["examples"] for task, result in found.items()},
        limit=limit,
        version=_get_version(),
        dtype=str(loaded.dtype).removeprefix("torch."),
        compute_dtype=format_compute_dtype(loaded.model),
        device=str(loaded.device),
    )


def _evaluate_task(loaded: LoadedModel, task: str, limit: int | None, batch: int, manager: Any) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = manager or TaskManager()
    if task not in manager.all_tasks:
        raise SpecError(f"lm-eval has no task {task!r}.", "List its tasks with: lm-eval ls tasks")
    with translate_hub_errors(task, "Choose another metric, or connect to the network."):
        examples = manager.load([task])
    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch)
    with apply_compute_dtype(loaded.model):
        outcome = evaluate(model, examples, limit=limit, log_samples=False)
    scores = outcome["results"][task]
    metric = next((name for name in METRICS if name in scores), None)
    if metric is None:
        raise SpecError(f"The lm-eval task {task!r} reports no accuracy.", "Choose a multiple-choice task.")
    stderr = scores.get(metric.replace(",", "_stderr,"), 0.0)
    return {
        "value": float(scores[metric]),
        "stderr": stderr if isinstance(stderr, float) else 0.0,
        "metric": metric.partition(",")[0],
        "examples": int(outcome["n-samples"][task]["effective"]),
    }


def _get_version() -> str:
    try:
        return version("lm-eval")
    except PackageNotFoundError:
        return "(unknown version)"
