"""A judge on loopback that keeps to the form of its verdict, but for the habit it is given."""

from __future__ import annotations

import json
import re
from typing import Any

from loopback import completion, send

KEY = "sk-secret-of-the-judge"


class JudgeServer:
    """A judge that compares word by word; `habit` is how it errs."""

    def __init__(self, habit: str = "") -> None:
        self.habit, self.keys = habit, set()
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request):
        self.keys.add(request.headers.get("Authorization"))
        if self.habit == "refuses":
            return send(request, json.dumps({"error": {"message": f"wrong key {KEY}"}}), 401)
        self.bodies.append(json.loads(request.body))
        text = self.bodies[-1]["messages"][-1]["content"]
        parts = dict(re.findall(r"<(\w+) \w{8}>\n(.*?)\n</\1 \w{8}>", text, re.DOTALL))
        if self.habit == "breaks" and parts["answer"] != parts["reference"]:
            return send(request, json.dumps({"error": {"message": f"no budget left for {KEY}"}}), 500)
        right = self._verdict(parts, text)
        words = {"chatty": "I think it is right.", "bold": "**VERDICT: CORRECT**"}.get(self.habit, f"Compared.\nVERDICT: {right}")
        return send(request, completion({"reasoning": "VERDICT: CORRECT", "content": words}))

    def _verdict(self, parts: dict[str, str], text: str) -> str:
        if self.habit == "kind":
            return "CORRECT"
        if self.habit == "first" and parts["answer"] != parts["reference"]:
            return "CORRECT" if text.startswith("<question") and text.index("<answer") < text.index("<reference") else "INCORRECT"
        return "CORRECT" if parts["answer"].strip() == parts["reference"].strip() else "INCORRECT"
