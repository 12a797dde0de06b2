"""The rows that a recipe's dataset stage reads, each with where it came from; the file is whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toolkit.engines import Answer
from toolkit.errors import NotReadyError
from toolkit.making import Unit


def row(unit: Unit, answer: Answer, model: str) -> dict[str, Any]:
    """Return an answer as a row; a question without an expected answer has none here either."""
    expected = {} if unit.item.expected is None else {"Expected": unit.item.expected}
    texts = {"Question": unit.item.text, "Complex_CoT": answer.reasoning.strip(), "Response": answer.text.strip()}
    return {**texts, **expected, "Model": model, "Sample": unit.sample, "Tokens": answer.completion_tokens}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines; NotReadyError where there is no room, with what was there before left as it was."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("w", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.writelines(json.dumps(made, ensure_ascii=False) + "\n" for made in rows)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise NotReadyError(
            f"{path} cannot be written: {error.strerror}", "make room, then run the same command again: the answers are kept"
        ) from error
