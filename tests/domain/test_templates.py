"""How templates become sequences, and what the command line of the engine is told of them."""

from typing import Any

import pytest

from server.domain.publishing import publish
from server.domain.sequences import check
from server.domain.templates import SecretField, Template, defaults, example, render, render_trigger

HIDDEN = "${config.name} ${secrets.token} {{context.data.x}} ${item}"


def template(*blocks: Any, trigger: dict[str, Any] | None = None, **fields: dict[str, Any]) -> Template:
    schema = {
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if "default" not in fields[name]],
    }
    return Template(
        id="tmpl_test",
        name="test",
        description="A test.",
        tags=("a",),
        plan="free",
        config=schema,
        secrets=(SecretField(name="token", description="A token.", required=True),),
        trigger=trigger or {"type": "webhook"},
        sequence={"namespace": "default", "name": "test", "blocks": list(blocks)},
    )


def rendered(value: Any, config: dict[str, Any] | None = None, credentials: dict[str, str] | None = None) -> Any:
    body = render(template(value), config=config or {}, credentials=credentials or {}, name="mine")
    assert (body["name"], body["namespace"]) == ("mine", "default")
    return body["blocks"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${config.n}", 7),
        ("n is ${config.n}", "n is 7"),
        ("${config.list}", [1, "a"]),
        ("${config.list} of ${config.name}", '[1, "a"] of Ada "A"'),
        ("${config.seconds|ms}", 1500),
        ("in ${config.seconds|ms} ms", "in 1500 ms"),
        ('{"name": ${config.name|json}}', '{"name": "Ada \\"A\\""}'),
        ("${secrets.token}", "credentials://cred-1"),
        ("{{context.data.x}} $ {config.n}", "{{context.data.x}} $ {config.n}"),
    ],
)
def test_placeholders(text: str, value: Any) -> None:
    config = {"n": 7, "name": 'Ada "A"', "list": [1, "a"], "seconds": 1.5}
    assert rendered(text, config, {"token": "cred-1"}) == [value]


def test_what_a_value_says_is_not_followed() -> None:
    config = {"name": HIDDEN, "hidden": "secret"}
    assert rendered({"a": "<${config.name}>", "b": "${config.name}"}, config, {"token": "c"}) == [
        {"a": f"<{HIDDEN}>", "b": HIDDEN}
    ]


def test_what_is_not_given_is_left_out() -> None:
    value = {"headers": {"authorization": "${secrets.token}", "x": "1"}, "list": ["${config.no}", "kept"]}
    assert rendered(value) == [{"headers": {"x": "1"}, "list": ["kept"]}]


def test_each_item_of_a_list_makes_one_more() -> None:
    each = {"$each": "urls", "$do": [{"id": "send_${index}", "url": "${item}", "body": "[${item|json}, ${config.n}]"}]}
    assert rendered(each, {"urls": ["a", 'b"'], "n": 1}) == [
        [
            [{"id": "send_1", "url": "a", "body": '["a", 1]'}],
            [{"id": "send_2", "url": 'b"', "body": '["b\\"", 1]'}],
        ]
    ]
    assert rendered(each, {"urls": [], "n": 1}) == [[]]


def test_triggers() -> None:
    trigger = {"type": "schedule", "cron": "${config.cron}", "timezone": "UTC"}
    found = template(trigger=trigger, cron={"type": "string", "default": "0 9 * * *"})
    assert render_trigger(found, config=defaults(found)) == {"type": "schedule", "cron": "0 9 * * *", "timezone": "UTC"}


def test_a_template_is_not_changed_by_what_is_made_of_it() -> None:
    found = template({"a": ["${config.n}"]}, n={"type": "integer", "examples": [3]})
    body = render(found, config=example(found), credentials={}, name="mine")
    body["blocks"][0]["a"].append(4)
    assert found.sequence["blocks"] == [{"a": ["${config.n}"]}]


def test_published_for_engines_that_are_not_ours() -> None:
    step = {
        "type": "step",
        "id": "send",
        "handler": "http_request",
        "params": {"url": "${config.url}", "all": "${config.all}", "headers": {"authorization": "${secrets.token}"}},
        "timeout": "${config.seconds|ms}",
    }
    own = {"type": "step", "id": "own", "handler": "charge", "params": {}, "queue_name": "billing"}
    found = publish(
        template(
            step,
            own,
            trigger={"type": "schedule", "cron": "0 9 * * *", "timezone": "UTC"},
            url={"type": "string", "description": "Where to.", "examples": ["https://a.example"]},
            all={"type": "array", "description": "All of them.", "examples": [[1]]},
            seconds={"type": "number", "description": "How long.", "default": 2},
        )
    )
    assert (found.builtin, [(one.handler, one.queue) for one in found.workers]) == (
        ("http_request",),
        [("charge", "billing")],
    )
    sent = found.sequence["blocks"][0]
    assert sent["params"] == {
        "url": "{{context.config.url}}",
        "all": [1],
        "headers": {"authorization": "credentials://token"},
    }
    assert sent["timeout"] == 2000
    assert found.sequence["schema_version"] == 1
    assert "id" not in found.sequence
    assert [text.partition(":")[0] for text in found.requires] == [
        "all, an example of which is in the blocks",
        "context.config.url",
        "A credential with the id token",
        "A schedule (POST /api/v1/cron), if it shall start by itself.",
    ]
    check(found.sequence)
