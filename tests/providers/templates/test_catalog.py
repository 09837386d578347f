"""Template files: which are read, which are refused and with which words, and the configs that they take."""

import copy
import json
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from server.domain.plans import Plans
from server.domain.templates import example, render
from server.errors import InvalidArgument
from server.providers.templates.catalog import BUILT_IN, Catalog
from server.providers.templates.reading import MAX_BYTES, TemplateInvalid
from tests.meta.source import ROOT

CATALOG = Catalog.load([BUILT_IN])
STEP = {"type": "step", "id": "send", "handler": "http_request", "params": {"url": "${config.url}"}}
GOOD: dict[str, Any] = {
    "id": "tmpl_mine",
    "name": "mine",
    "description": "Sends.",
    "tags": ["http"],
    "plan": "free",
    "config": {
        "type": "object",
        "additionalProperties": False,
        "required": ["url"],
        "properties": {
            "url": {"type": "string", "format": "uri", "description": "Where to.", "examples": ["https://a.example"]}
        },
    },
    "secrets": [],
    "trigger": {"type": "webhook"},
    "sequence": {"namespace": "default", "name": "mine", "blocks": [STEP]},
}
Change = Callable[[dict[str, Any]], object]


def write(folder: Path, text: str | bytes, name: str = "mine") -> Path:
    path = folder / name / "template.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, plans: Plans | None = None) -> TemplateInvalid:
    with pytest.raises(TemplateInvalid) as refused:
        Catalog.load([BUILT_IN, folder], plans)
    return refused.value


def prop(template: dict[str, Any], name: str, **schema: Any) -> None:
    template["config"]["properties"][name] = {"description": "It.", **schema}


def param(template: dict[str, Any], name: str, value: Any) -> bool:
    template["sequence"]["blocks"][0]["params"][name] = value
    return True


def block(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = template["sequence"]["blocks"][0]
    return found


SECRET = {"name": "token", "description": "A token.", "required": False}
BROKEN: list[tuple[Change, str]] = [
    (lambda t: t.pop("plan"), "'plan' is missing"),
    (lambda t: t.update(planm="free"), "there is no key 'planm'"),
    (lambda t: t.update(id="mine"), "'id' must be tmpl_"),
    (lambda t: t.update(name="Mine"), "'name' must be small letters"),
    (
        lambda t: (t.update(name="other"), t["sequence"].update(name="other")),
        "its folder must be named as the template is, 'other'",
    ),
    (lambda t: t.update(description=" "), "'description' must be a text"),
    (lambda t: t.update(description="x" * 501), "'description' must be a text of 1 to 500"),
    (lambda t: t.update(tags=["A b"]), "'tags' must be at most 10"),
    (lambda t: t.update(tags="http"), "'tags' must be a list"),
    (lambda t: t.update(config=[]), "config must be a JSON Schema of type object"),
    (lambda t: t["config"].update(additionalProperties=True), "config.additionalProperties must be false"),
    (lambda t: t["config"].update(anyOf=[]), "config: there is no key 'anyOf'"),
    (lambda t: t["config"].update(required="url"), "config is no JSON Schema"),
    (lambda t: t["config"].update(required=["url", "x"]), "config.required names 'x', which is no field"),
    (lambda t: t["config"]["properties"]["url"].pop("examples"), "config.url must be chosen, so it needs an example"),
    (lambda t: t["config"]["properties"]["url"].pop("description"), "config.url needs a description"),
    (lambda t: t["config"]["properties"]["url"].update(default="https://b.example"), "config.url has a default"),
    (
        lambda t: t["config"]["properties"]["url"].update(examples=["x"]),
        "config.url: the default or an example must be",
    ),
    (lambda t: prop(t, "n", type="integer", default=1), "config.n needs a bound: maximum"),
    (
        lambda t: prop(t, "n", type="integer", default=9, maximum=8),
        "config.n: the default or an example must be at most 8",
    ),
    (
        lambda t: prop(t, "n", type="integer", default="1", maximum=8),
        "config.n: the default or an example must be an int",
    ),
    (lambda t: prop(t, "n", type="object"), "config.n: its type must be one of string"),
    (lambda t: prop(t, "n", **{"$ref": "https://a.example/s"}), "config.n: there is no key '$ref'"),
    (lambda t: prop(t, "n", type="string", format="email"), "config.n: its format must be one of uri, cron"),
    (lambda t: prop(t, "n", type="string", pattern="(", maxLength=1), "config is no JSON Schema"),
    (lambda t: prop(t, "n", type="array", maxItems=2), "config.n[] must be a schema"),
    (lambda t: prop(t, "N", type="boolean", default=True), "config: 'N' must be at most 40 small letters"),
    (lambda t: prop(t, "n", type="boolean", default=True), "config.n is not used"),
    (lambda t: t.update(secrets=[SECRET]), "secrets.token is not used"),
    (lambda t: t.update(secrets=[SECRET, SECRET]), "secrets: there are two 'token'"),
    (lambda t: t.update(secrets=[{"name": "token"}]), "secrets[0] must have name, description and required"),
    (lambda t: t.update(secrets=[{**SECRET, "required": 1}]), "secrets[0].required must be true or false"),
    (lambda t: t.update(secrets=[{**SECRET, "description": ""}]), "secrets[0] needs a description"),
    (lambda t: param(t, "x", "${config.nothing}"), "the placeholder config.nothing refers to nothing"),
    (lambda t: param(t, "x", "${secrets.nothing}"), "the placeholder secrets.nothing refers to nothing"),
    (lambda t: param(t, "x", "${confg.url}"), "'${confg.url}' is no placeholder"),
    (lambda t: param(t, "x", "${config.url"), "'${config.url' is no placeholder"),
    (lambda t: param(t, "x", "${config.url|upper}"), "'${config.url|upper}' is no placeholder"),
    (lambda t: param(t, "x", "${config.url|ms}"), "only numbers of seconds become milliseconds"),
    (lambda t: param(t, "x", "${item}"), "${item} and ${index} stand within '$do'"),
    (lambda t: param(t, "x", {"$each": "url", "$do": []}), "'$each' names config.url, which is no list"),
    (lambda t: param(t, "x", {"$each": "nothing", "$do": []}), "config.nothing refers to nothing"),
    (lambda t: param(t, "x", {"$each": "url"}), "'$each' must name a config field, with '$do'"),
    (
        lambda t: param(t, "x", {"$each": "url", "$do": [{"$each": "url", "$do": []}]}),
        "'$each' must not stand within another",
    ),
    (lambda t: (t.update(secrets=[SECRET]), param(t, "x", "Bearer ${secrets.token}")), "a secret must be a whole text"),
    (
        lambda t: (t.update(secrets=[SECRET]), block(t).update(rate_limit_key="${secrets.token}")),
        "a secret must be a whole text",
    ),
    (lambda t: (t.update(secrets=[SECRET]), param(t, "x", "${secrets.token|json}")), "a secret cannot be converted"),
    (lambda t: t.update(trigger={"type": "cron"}), "trigger.type must be one of webhook, schedule"),
    (lambda t: t.update(trigger={"type": "webhook", "x": 1}), "a trigger of type webhook must have the texts type"),
    (lambda t: t.update(trigger={"type": "schedule", "cron": "x"}), "must have the texts cron, timezone, type"),
    (lambda t: t["sequence"].update(name="x"), "sequence.name must be the template's, 'mine'"),
    (lambda t: t["sequence"].update(blocks=[], on_failure=[STEP]), "sequence: 'blocks' must not be empty"),
    (lambda t: t["sequence"].update(version=1), "sequence: 'version' is set when"),
    (lambda t: block(t).update(handler=""), "sequence: send: 'handler' must be a text"),
    (lambda t: block(t).update(timeout="${config.url}"), "sequence: send: timeout must be a whole number"),
    (lambda t: block(t).update(type="if"), "sequence: send: there is no block type 'if'"),
]


def test_a_good_one_is_read(tmp_path: Path) -> None:
    write(tmp_path, json.dumps(GOOD))
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("Ours.")
    found = Catalog.load([BUILT_IN, tmp_path]).get("tmpl_mine")
    assert found is not None
    assert (found.name, found.plan, found.tags, found.author) == ("mine", "free", ("http",), "orch8-cloud")


@pytest.mark.parametrize(("change", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_a_broken_one_is_refused_by_file_and_reason(tmp_path: Path, change: Change, reason: str) -> None:
    template = copy.deepcopy(GOOD)
    change(template)
    path = write(tmp_path, json.dumps(template))
    refused = refusal(tmp_path)
    assert refused.file == path
    assert reason in refused.reason
    assert "\n" not in str(refused)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no JSON"),
        (b"\xff", "is no JSON"),
        ("[]", "must be an object"),
        ('{"id": 1, "id": 2}', "has the key 'id' twice in one object"),
        ('{"id": NaN}', "is no JSON: NaN is not JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a": ' + "[" * 150 + "]" * 150 + "}", "is nested too deeply"),
        (" " * (MAX_BYTES + 1), f"is larger than {MAX_BYTES} bytes"),
    ],
    ids=str,
)
def test_what_is_no_template_at_all(tmp_path: Path, text: str | bytes, reason: str) -> None:
    write(tmp_path, text)
    assert reason in refusal(tmp_path).reason


def test_folders_without_templates(tmp_path: Path) -> None:
    assert "holds no template" in refusal(tmp_path).reason
    assert "No such file or directory" in refusal(tmp_path / "nothing").reason
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path).file == tmp_path / "empty" / "template.json"


def test_ids_and_names_are_used_once(tmp_path: Path) -> None:
    write(tmp_path, json.dumps(GOOD))
    write(tmp_path, json.dumps({**GOOD, "name": "yours", "sequence": {**GOOD["sequence"], "name": "yours"}}), "yours")
    assert refusal(tmp_path).reason == f"'tmpl_mine' is taken by {tmp_path / 'mine' / 'template.json'}"


def test_names_of_the_package_are_taken(tmp_path: Path) -> None:
    sequence = {**GOOD["sequence"], "name": "approval"}
    write(tmp_path, json.dumps({**GOOD, "name": "approval", "sequence": sequence}), "approval")
    assert "'approval' is taken by" in refusal(tmp_path).reason


def test_some_plan_must_be_able_to_deploy_it(tmp_path: Path) -> None:
    write(tmp_path, json.dumps({**GOOD, "plan": "gold"}))
    plans = Plans.parse('[free]\ntemplates = ["free"]\n')
    assert refusal(tmp_path, plans).reason == "no plan may deploy templates of the plan 'gold'"
    golden = Plans.parse('[free]\ntemplates = ["free"]\n[team]\ntemplates = ["gold"]\n')
    found = Catalog.load([BUILT_IN, tmp_path], golden)
    assert found.get("tmpl_mine") is not None
    # Those of the package whose plans the operator does not have are left out.
    assert found.get("tmpl_fan_out") is not None
    assert found.get("tmpl_payment_dunning") is None


def test_the_package_holds_every_template() -> None:
    files = sorted(path.relative_to(ROOT / "server") for path in BUILT_IN.rglob("*") if path.is_file())
    assert len(files) >= 6
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["server"]
    assert [file for file in files if not any(fnmatch(str(file), pattern) for pattern in patterns)] == []


def test_the_packaged_ones_use_what_the_default_plans_have() -> None:
    plans = Plans.parse((ROOT / "server" / "plans.toml").read_text())
    assert Catalog.load([BUILT_IN], plans).all() == CATALOG.all()
    assert "free" in {template.plan for template in CATALOG.all()}


@pytest.mark.parametrize("template", CATALOG.all(), ids=lambda template: template.name)
def test_the_packaged_ones_read_well(template: Any) -> None:
    texts = [template.description, *(field["description"] for field in template.config["properties"].values())]
    texts += [secret.description for secret in template.secrets]
    assert all(text[0].isupper() and text.endswith(".") and len(text) > 15 for text in texts)
    config = CATALOG.check_config(template, {name: example(template)[name] for name in template.config["required"]})
    assert config == example(template)
    assert "${" not in json.dumps(render(template, config=config, credentials={}, name="x"))


@pytest.mark.parametrize(
    ("config", "broken"),
    [
        ({}, {"config.urls": "is required: The addresses."}),
        ({"urls": "https://a.example"}, {"config.urls": "must be an array"}),
        ({"urls": []}, {"config.urls": "must have at least 1 items"}),
        ({"urls": ["ftp://a"]}, {"config.urls[0]": "must be an address that begins with https:// or http://"}),
        ({"urls": ["https://a b"]}, {"config.urls[0]": "must be an address"}),
        ({"urls": [None, 1]}, {"config.urls[0]": "must be a string", "config.urls[1]": "must be a string"}),
        ({"urls": ["https://a"] * 2}, {"config.urls": "must not have the same item twice"}),
        (
            {"urls": ["https://a"], "max_attempts": 1.5, "timeout_seconds": 999},
            {"config.max_attempts": "must be an integer", "config.timeout_seconds": "must be at most 300"},
        ),
        ({"urls": ["https://a"], "max_attempts": True}, {"config.max_attempts": "must be an integer"}),
        ({"urls": ["https://a"], "x": 1}, {"config.x": "is no config field of the template; it has backoff_seconds, "}),
    ],
)
def test_configs_that_are_refused(config: dict[str, Any], broken: dict[str, str]) -> None:
    template = CATALOG.get("tmpl_fan_out")
    assert template is not None
    with pytest.raises(InvalidArgument) as refused:
        CATALOG.check_config(template, config)
    found = {violation.field: violation.description for violation in refused.value.violations}
    assert found.keys() == broken.keys()
    assert all(found[field].startswith(text) for field, text in broken.items())


def test_a_refusal_does_not_repeat_what_was_given() -> None:
    template = CATALOG.get("tmpl_scheduled_report")
    assert template is not None
    given = {"source_url": "sk-secret", "cron": "sk-secret", "timezone": "sk secret", "timeout_seconds": "sk-secret"}
    with pytest.raises(InvalidArgument) as refused:
        CATALOG.check_config(template, given)
    assert len(refused.value.violations) == 5
    assert "sk" not in " ".join(violation.description for violation in refused.value.violations)


def test_defaults_are_filled_in_and_the_given_kept() -> None:
    template = CATALOG.get("tmpl_fan_out")
    assert template is not None
    given = {"urls": ["https://a"], "max_attempts": 9}
    assert CATALOG.check_config(template, given) == {**given, "backoff_seconds": 2, "timeout_seconds": 30}
    assert given == {"urls": ["https://a"], "max_attempts": 9}
