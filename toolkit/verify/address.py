"""Any endpoint, verified by its address alone: no recipe, no model on this machine."""

from __future__ import annotations

from pathlib import Path

from toolkit.chat_template import ChatTemplate
from toolkit.engines import Endpoint, engine
from toolkit.engines.chat import Chat
from toolkit.errors import NotReadyError
from toolkit.recipe import Verify
from toolkit.serving import detect
from toolkit.verify import Expectations
from toolkit.verify.judge import Observation, Report, judge
from toolkit.verify.observe import Progress, examine, summary


def find_endpoint(url: str, model: str | None, name: str | None, api_key: str | None = None) -> Endpoint:
    """Return the endpoint of an address, its engine found out and its first model taken where they are not given.

    NotReadyError where nothing answers, the key is refused, or no model is listed; UsageError for an unknown engine.
    """
    kind = engine(name or detect(url, api_key)).name
    # A given name is tried by the first question: not every server's list holds what it serves (transformers lists its download cache).
    chosen = model or next(iter(Chat(Endpoint(kind, url, "", api_key), timeout=10).models()), "")
    if not chosen:
        raise NotReadyError(f"{url} lists no model", "name the served model with --model")
    return Endpoint(kind, url, chosen, api_key)


def verify_address(endpoint: Endpoint, model_dir: Path | None = None, progress: Progress = lambda *_: None) -> Report:
    """Hold an endpoint against what can be known without a recipe: think, stop, and prompt where a checkpoint is given."""
    template = ChatTemplate.of_model(model_dir) if model_dir else None
    expectations = Expectations(template=template, variant="")
    replies, findings = examine(endpoint, expectations, progress)
    seen = Observation(summary(endpoint, expectations, replies), findings, tuple(replies))
    return judge(endpoint.model, Verify(), [seen], description=f"The endpoint {endpoint.url}")
