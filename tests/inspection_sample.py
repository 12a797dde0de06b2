"""An inspection as images/train/inspect_dataset.py leaves it, with something of every kind and text that must be escaped."""

from __future__ import annotations

from typing import Any

SCRIPT = "<script>document.title = 'taken'</script>"


def part(**changes: Any) -> dict[str, Any]:
    """Return one source's findings."""
    return {
        "read": 120,
        "kept": 110,
        "dropped": [],
        "first_dropped": {},
        "shape": "medical-o1",
        "columns": {},
        "reasoning_in": {"a column": 110},
        "tokens": {"p50": 60, "p90": 90, "p99": 120, "max": 126, "max_length": 128, "total": 7000, "supervised": 5000},
        "thinking_share": 0.83,
        "files": {"train.jsonl": 120},
        "origins": {"source": {"ward": 70, "<b>clinic</b>": 50}},
        "turns": {"1": 108, "2": 2},
        "histogram": [[40, 48, 10], [48, 56, 40], [56, 64, 30], [64, 72, 0], [72, 128, 30], [128, 136, 6]],
        "thinking": [[0, 20, 30], [20, 40, 80]],
        "duplicates": {"rows": 0, "examples": []},
        "near_duplicates": {"rows": 0, "examples": []},
        **changes,
    }


def found() -> dict[str, Any]:
    """Return the findings of a recipe: training rows with faults of every kind, and held-out rows that overlap."""
    dropped = [
        {"reason": "too long", "count": 6, "examples": [{"place": "train.jsonl:7", "row": {"Question": "Why?" * 40, "Response": ""}}]},
        {"reason": "unclosed tag", "count": 4, "examples": [{"place": "train.jsonl:9", "row": {"Question": SCRIPT}}]},
    ]
    pair = {
        "place": "train.jsonl:30",
        "question": "Why is the sky blue at noon?",
        "other_place": "train.jsonl:3",
        "other_question": "Why is the sky blue at noon",
        "share": 0.86,
    }
    twins = {"rows": 1, "examples": [{"place": "train.jsonl:11", "first": "train.jsonl:2"}]}
    shared = {"rows": 1, "examples": [{"place": "holdout.jsonl:1", "question": f"What is 1 + 1? {SCRIPT}"}], "near": {"rows": 1, "examples": [pair]}}
    return {
        "name": "demo",
        "schema": 1,
        "unit": "tokens",
        "max_length": 128,
        "limit": None,
        "parts": {
            "source": part(dropped=dropped, duplicates=twins, near_duplicates={"rows": 1, "examples": [pair]}),
            "holdout": part(read=20, kept=20, origins={}, files={"holdout.jsonl": 20}),
        },
        "overlap": shared,
        "samples": [sample(number) for number in range(4)],
    }


def sample(number: int) -> dict[str, Any]:
    """Return a row as tokens: among them a character of two tokens, a line's end and text that looks like HTML."""
    prompt = [["<|im_start|>", 1], ["user", 4093], ["\n", 198], ["What", 1780], [" is", 314], [f" {number}", 216], ["?", 47], ["<|im_end|>", 2]]
    thinking = [["Ones", 7], [" <b>", 8], [" 気", 9], ["", 10], ["\n", 198], ["</think>", 49153]]
    return {
        "part": "source" if number else "holdout",
        "place": f"train.jsonl:{number + 1}",
        "expected": None if number else "2",
        "prompt_tokens": len(prompt),
        "thinking_tokens": len(thinking),
        "completion_tokens": len(thinking) + 3,
        "prompt": prompt,
        "thinking": thinking,
        "answer": [["\n\n", 271], ["2", 34], ["<|im_end|>", 2]],
    }
