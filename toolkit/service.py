"""What an operator does with a model: serve it, stop it, and hold any endpoint against the contracts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit import console, pipeline, questions, recipe_file, reclaim, runs, servers, serving
from toolkit.assessment import Soak, Verify
from toolkit.chat_template import ChatTemplate
from toolkit.endpoints import Address, key_of
from toolkit.engines import Endpoint, engine
from toolkit.errors import BrokenError, NotReadyError, UsageError
from toolkit.fit import choice
from toolkit.pipeline import Runner
from toolkit.plan import Step, plan, serve_step, variants
from toolkit.recipe import EngineName, Recipe
from toolkit.report import Files, terminal
from toolkit.resolve import resolve
from toolkit.servers import Server
from toolkit.store import Store
from toolkit.targets import target
from toolkit.variants import quantization
from toolkit.verify import Expectations, ends, identity, settings, tokens
from toolkit.verify.judge import Observation, Report, judge
from toolkit.verify.observe import examine, summary


def serve(path: Path, name: EngineName, store: Path, *, port: int | None, variant: str | None, runner: str, api_key_file: Path | None) -> None:
    """Make what the server needs, start it in the background, wait for one answered token, and say how to use it."""
    recipe = _wanted(path, name, variant)  # what cannot be served is said before anything is made
    _check_key(name, api_key_file)
    _check_fit(recipe, path.resolve().parent, name, store)
    where = runs.runner(runner, (name,))
    chosen = serving.pick_port(port or engine(name).port)
    step, inputs = _made(path, name, variant, store, where)
    console.step(step.name, f"port {chosen}", "run")
    folder = servers.folder_of(store)
    given = target(step.recipe, inputs, api_key_file)
    server = servers.start(name, given, where.place(name, folder / name), folder, chosen)
    _introduce(server, tuple(given.adapters))


def _check_fit(recipe: Recipe, folder: Path, name: EngineName, store: Path) -> None:
    """Refuse what cannot work on this machine, and say which format was chosen and why."""
    if name == "vllm" and choice.AUTO in recipe.serve.vllm.variants:
        console.note(choice.chosen_for(recipe, folder).reason)
    runs.require(recipe, folder, (name,), "serve", store)


def _wanted(path: Path, name: EngineName, variant: str | None) -> Recipe:
    """Load a recipe; where a variant is asked for, as one that serves this alone. UsageError where it does not serve it."""
    recipe = recipe_file.load(path)
    known = variants(recipe, name)
    allowed = (*known, *choice.CANDIDATES) if choice.AUTO in known else known
    if variant and variant not in allowed:
        raise UsageError(f"{name} does not serve {variant!r} by this recipe", f"one of {', '.join(allowed)}")
    if name != "vllm":
        return recipe
    vllm = recipe.serve.vllm.model_copy(update={"variants": (quantization(variant or known[0]),)})
    return recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"vllm": vllm})})


@contextmanager
def served(path: Path, name: EngineName, store: Path, variant: str | None, runner: str) -> Iterator[Endpoint]:
    """Yield where an engine serves a recipe: the server that `serve` left running, else one that ends with the block.

    NotReadyError where the running one serves another model, others as `serve`.
    """
    recipe = _wanted(path, name, variant)
    if running := servers.read_state(servers.folder_of(store) / f"{name}.json"):
        if running.model != recipe.serve.name or variant:
            wanted = " ".join(filter(None, (recipe.serve.name, variant)))
            raise NotReadyError(f"{name} serves {running.model} at {running.url}, and {wanted} is wanted", "`thinkship stop` ends it")
        yield running.endpoint
        return
    _check_fit(recipe, path.resolve().parent, name, store)
    where = runs.runner(runner, (name,))
    step, inputs = _made(path, name, variant, store, where)
    folder = servers.folder_of(store)
    folder.mkdir(parents=True, exist_ok=True)
    console.step(step.name, "ends with this command", "run")
    with serving.serving(name, target(step.recipe, inputs), where.place(name, folder / f"chat-{name}"), folder / f"chat-{name}.log") as endpoint:
        yield endpoint


def _check_key(name: EngineName, file: Path | None) -> None:
    """Refuse a key that would protect nothing."""
    if not file:
        return
    if not engine(name).asks_for_key:
        raise UsageError(f"{name} cannot ask for an API key", "leave it on 127.0.0.1 and put a proxy that asks before it: compose's profile `proxy`")
    key = key_of(file)
    if not key or len(key.split()) != 1:
        raise UsageError(f"{file} does not hold one key", "openssl rand -hex 32 > api_key; chmod 600 api_key")


def bake(path: Path, name: EngineName, *, variant: str | None, store: Path, runner: str) -> None:
    """Make what an engine needs of a recipe and build an image that serves it without a volume."""
    from toolkit import model_image

    step, inputs = _made(path, name, variant, store, runs.runner(runner))
    model_image.build(name, target(step.recipe, inputs))


def _made(path: Path, name: EngineName, variant: str | None, store: Path, where: Runner) -> tuple[Step, dict[str, Path]]:
    """Make the directories that a server is given and return its step and them; NotReadyError where what it needs was reclaimed."""
    step, needed = steps(path, name, variant)
    reclaim.require(Store(store), step, needed)
    made = pipeline.run(needed, Store(store), where).directories
    return step, {key: made[other] for key, other in step.inputs.items()}


def steps(path: Path, name: EngineName, variant: str | None) -> tuple[Step, tuple[Step, ...]]:
    """Return the step that serves, and those whose directories it needs."""
    lock = resolve(_wanted(path, name, variant), path.resolve().parent, (name,))
    step = serve_step(lock.recipe, name, variant or variants(lock.recipe, name)[0], base=False)
    return step, _needed(plan(lock, (name,)), step)


def _needed(steps: tuple[Step, ...], step: Step) -> tuple[Step, ...]:
    """Return the steps whose directories `step` needs, and theirs, in order."""
    names = set(step.inputs.values())
    for other in reversed(steps):
        names |= set(other.inputs.values()) if other.name in names else set()
    return tuple(other for other in steps if other.name in names)


def _introduce(server: Server, further: tuple[str, ...] = ()) -> None:
    file = server.api_key_file
    bearer, key = (f' -H "Authorization: Bearer $(cat {file})"', f'open("{file}").read()') if file else ("", '"none"')
    console.say(f"""
{server.model} is served by {server.engine} at {server.url}   (log: {server.log}){_beside(server, further)}

curl {server.url}/chat/completions -H 'Content-Type: application/json'{bearer} \\
  -d '{{"model": "{server.model}", "messages": [{{"role": "user", "content": "What is 47 + 25?"}}]}}'

from openai import OpenAI
message = OpenAI(base_url="{server.url}", api_key={key}).chat.completions.create(
    model="{server.model}", messages=[{{"role": "user", "content": "What is 47 + 25?"}}]).choices[0].message
print(message.model_dump(), message.content)

make health    does it answer, does it think?
make stop      end it""")


def _beside(server: Server, further: tuple[str, ...]) -> str:
    """Say by which fields of a request each of serve.adapters is asked for."""
    known, plain = engine(server.engine), Endpoint(server.engine, server.url, server.model)
    asked = {name: known.addressed(plain, (server.model, *further), name) for name in further}
    return "".join(f"\n{name} beside it: {json.dumps({'model': one.model, **one.extra})}" for name, one in asked.items())


def stop(store: Path) -> None:
    """Stop every server that `serve` started for this store."""
    stopped = servers.stop(servers.folder_of(store))
    for server in stopped:
        console.say(f"stopped {server.engine} ({server.url})")
    if not stopped:
        console.say("no server of this store is running")


def logs(lines: int, store: Path) -> None:
    """Print the last lines of every server that `serve` started for this store."""
    running = servers.running(servers.folder_of(store))
    for server in running:
        console.say(f"{server.engine} ({server.url})\n{server.tail(lines)}")
    if not running:
        console.say("no server of this store is running")


def verify(path: Path | None, store: Path, **given: Any) -> None:
    """Verify a recipe's engines, or one endpoint; BrokenError where the verdict is fail."""
    if path and given["soak"]:
        raise UsageError("--soak is for one endpoint", "state verify.soak in the recipe: {requests: 500}")
    if path and given["url"]:
        raise UsageError("a recipe and --url were both given", "name the recipe, whose engines are started and verified, or the endpoint alone")
    files = Files(given["json_file"], given["html_file"], given["junit_file"])
    if path and (scoring := questions.stated(given)):
        raise UsageError(f"a recipe and {', '.join(scoring)} were both given", "the recipe says what is asked and how it is marked: verify.task")
    if path:
        runs.require(recipe_file.load(path), path.resolve().parent, (), None, store)
        runs.run(runs.steps(path), store, files=files)
        return
    files.require()
    found = _examined(given, store)
    document = found.model_dump(mode="json", by_alias=True)
    files.write(document)
    terminal.show(document)
    if found.verdict != "pass":
        raise BrokenError("the verdict is fail", "each failed check above names its remedy")


def _known_of(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint says of the endpoint that serves it."""
    beside = folder.resolve().parent
    told = {"template": ChatTemplate.of_model(folder), "ends": ends.of_model(folder), "sampling": settings.of_checkpoint(folder)}
    return {**told, "probes": identity.read(beside), "tokenized": tokens.read(beside)}


def _soak(requests: int | None) -> Soak | None:
    return Soak(requests=requests) if requests else None


def _examined(given: dict[str, Any], store: Path) -> Report:
    asked, earlier = questions.wanted(given), questions.earlier(given["against"])
    endpoint = Address(given["url"], given["model"], given["engine"]).endpoint(store, min(given["timeout"], 10.0))
    folder = given["model_dir"]
    known = _known_of(folder) if folder else {}
    expected = Expectations(**known, **asked, timeout=given["timeout"], soak=_soak(given["soak"]))
    replies, findings = examine(endpoint, expected)
    more = (questions.compared(endpoint.engine, replies, earlier), *questions.beyond(endpoint.engine))
    seen = Observation(summary(endpoint, expected, replies), (*findings, *more), tuple(replies))
    return judge(endpoint.model, Verify(task=expected.task), [seen], description=f"the endpoint {endpoint.url}")
