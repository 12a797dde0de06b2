"""Ask one task of lm-evaluation-harness through an endpoint and leave results.json, with every question in samples.jsonl.

The data sets of public tasks come from the hub at the first run; a folder of one's own may hold tasks over local files.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from program import INVALID, NOT_READY, Args, ProgramError, note, run

UNREACHABLE = (
    "ConnectionError",
    "ConnectError",
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "DatasetNotFoundError",
    "MaxRetryError",
    "Timeout",
)
"""Names of what the hub's libraries raise where a data set cannot be had."""


def main(args: Args) -> int:
    """Run the task and write its figures."""
    wanted, asked = args.recipe["benchmark"], args.recipe["endpoint"]
    folder = args.inputs.get("folder")
    if folder:
        os.chdir(folder)  # a task's data files are named relative to its YAML
    from endpoint import Endpoint  # here: importing the harness takes seconds

    model = Endpoint({**asked, "max_tokens": wanted["max_tokens"]})
    results = evaluated(model, wanted, folder)
    name, strategy = figure(results, wanted)
    samples = [sample for task in results["samples"].values() for sample in task if sample["filter"] == strategy]
    figures = summary(results, wanted["task"], f"{name},{strategy}") | marks(samples, name) | {"counts": dict(model.counts)}
    write(args.output, figures, [line(sample, name) for sample in samples])
    note(f"{wanted['task']}: {figures['metric']} {figures['value']:.4f} over {figures['questions']} questions")
    return 0


def evaluated(model: Any, wanted: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return the harness's results; ProgramError where there is no such task or its data cannot be had."""
    import lm_eval

    tasks = tasks_of(wanted["task"], folder)
    try:
        found: dict[str, Any] = lm_eval.simple_evaluate(
            model=model,
            tasks=[wanted["task"]],
            num_fewshot=wanted["fewshot"],
            limit=wanted["limit"],
            task_manager=tasks,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            bootstrap_iters=0,
        )
    except ImportError as error:
        message = f"{wanted['task']} needs a package that is not installed: {error}"
        raise ProgramError(message, "add it to images/lmeval/requirements.in", NOT_READY) from error
    except Exception as error:
        if any(kind.__name__ in UNREACHABLE for kind in kinds(error)):
            remedy = "set HF_ENDPOINT to a mirror, or name a task over local data (verify.benchmarks.folder)"
            raise ProgramError(f"the data of {wanted['task']} cannot be had: {error}", remedy, NOT_READY) from error
        raise
    return found


def tasks_of(name: str, folder: Path | None) -> Any:
    """Return the harness's index of tasks, the folder's own alone where the task is there: reading all 15,000 takes ten seconds and more."""
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=str(folder), include_defaults=False) if folder else None
    if own and name in own.all_tasks:
        return own
    known = TaskManager(include_path=str(folder) if folder else None)
    if name not in known.all_tasks:
        near = difflib.get_close_matches(name, known.all_tasks, 3)
        remedy = f"did you mean {', '.join(near)}?" if near else "`lm-eval ls tasks` lists them"
        raise ProgramError(f"lm-eval knows no task {name!r}", remedy)
    return known


def kinds(error: BaseException | None) -> Iterator[type]:
    """Yield the classes of an error and of what caused it."""
    while error is not None:
        yield from type(error).__mro__
        error = error.__cause__ or error.__context__


def figure(results: dict[str, Any], wanted: dict[str, Any]) -> tuple[str, str]:
    """Return metric and filter of the figure that counts; ProgramError where the task has no such figure or less of it is better."""
    known = [key for key in results["results"][wanted["task"]] if "," in key and "_stderr," not in key]
    chosen = [key for key in known if wanted["metric"] in (None, key, key.partition(",")[0])]
    if not chosen:
        raise ProgramError(f"{wanted['task']} has no figure {wanted['metric']!r}", f"one of {', '.join(known) or 'none'}", INVALID)
    name, _, strategy = chosen[0].partition(",")
    if results["higher_is_better"].get(wanted["task"], {}).get(name) is False:
        raise ProgramError(f"of {name} less is better, and the recipe names a least value", "choose another metric", INVALID)
    return name, strategy


def summary(results: dict[str, Any], task: str, key: str) -> dict[str, Any]:
    """Return the figure that counts, beside all others."""
    from importlib.metadata import version

    figures = results["results"][task]
    others = {name: value for name, value in figures.items() if "," in name and isinstance(value, int | float)}
    stated = {"task": task, "metric": key, "value": float(figures[key]), "figures": others}
    return stated | {"fewshot": results["n-shot"].get(task), "version": results["versions"].get(task), "harness": f"lm-eval {version('lm-eval')}"}


def marks(samples: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return how many questions were asked, and how many were right where the figure is a mark of right or wrong."""
    values = [sample[name] for sample in samples if name in sample]
    plain = bool(values) and all(value in (0, 1) for value in values)
    return {"questions": len(samples), "right": int(sum(values)) if plain else None}


def line(sample: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a question as a line of samples.jsonl."""
    given = sample["arguments"]
    first = next(iter(given.values())) if isinstance(given, dict) else given[0]
    sent = next(iter(first.values())) if isinstance(first, dict) else first[0]
    return {"asked": sent, "target": sample["target"], "answer": sample["resps"], "read": sample["filtered_resps"], name: sample.get(name)}


def write(output: Path, figures: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Write both files, the figures last."""
    text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
    (output / "samples.jsonl").write_text(text, encoding="utf-8")
    (output / "results.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
