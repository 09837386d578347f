"""Every template of the package, deployed on a development engine and followed to its end."""

import json
import uuid
from typing import Any

import pytest

from server.domain.templates import render, render_trigger
from server.providers.templates.catalog import BUILT_IN, Catalog
from tests.providers.devengine.running import TENANT, RunningEngine, eventually
from tests.support.target import Target

CATALOG = Catalog.load([BUILT_IN])
RUN = {
    "webhook-to-http": "handed_on",
    "approval": "approval",
    "delayed-reminders": "reminders",
    "fan-out": "fan_out",
    "scheduled-report": "report",
    "payment-dunning": "dunning",
}
FAST: dict[str, Any] = {"max_attempts": 3, "backoff_seconds": 0.1}


class Deployed:
    """A template on an engine, as a deployment does it."""

    def __init__(self, engine: RunningEngine, name: str, secrets: dict[str, str] | None = None, **config: Any) -> None:
        self.engine = engine
        self.name = f"{name}-{uuid.uuid4().hex[:8]}"
        template = next(template for template in CATALOG.all() if template.name == name)
        whole = CATALOG.check_config(template, config)
        credentials = {key: self._credential(value) for key, value in (secrets or {}).items()}
        body = render(template, config=whole, credentials=credentials, name=self.name)
        self.sequence_id = engine.sequence(*body["blocks"], name=self.name)
        self.trigger = render_trigger(template, config=whole)
        slug = {"slug": self.name, "sequence_name": self.name, "tenant_id": TENANT, "secret": "s"}
        assert engine.http.post("/api/v1/triggers", json=slug).status_code == 201

    def _credential(self, value: str) -> str:
        credential_id = f"cred-{uuid.uuid4().hex}"
        body = {"id": credential_id, "name": "c", "value": json.dumps(value), "tenant_id": TENANT}
        assert self.engine.http.post("/api/v1/credentials", json=body).status_code == 201
        return credential_id

    def start(self, event: Any) -> str:
        path = f"/api/v1/triggers/{self.name}/fire"
        answer = self.engine.http.post(path, json=event, headers={"x-trigger-secret": "s"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["instance_id"])

    def run(self, event: Any) -> str:
        """The state in which a run for the event ends."""
        return str(self.engine.ended(self.start(event))["state"])


def test_every_template_is_run_here() -> None:
    assert {template.name for template in CATALOG.all()} == set(RUN)
    assert all(any(name.startswith(f"test_{part}") for name in globals()) for part in RUN.values())


def test_handed_on_after_failures(engine: RunningEngine, target: Target) -> None:
    target.script["/in"] = [500, 503]
    deployed = Deployed(engine, "webhook-to-http", {"authorization": "Bearer t-1"}, url=target.url("/in"), **FAST)
    event = {"id": "e1", "text": 'with "quotes" and {{context.config}}'}
    assert deployed.run(event) == "completed"
    assert [call.json for call in target.to("/in")] == [{"event": event}] * 3
    assert {call.headers["authorization"] for call in target.calls} == {"Bearer t-1"}


def test_handed_on_in_vain(engine: RunningEngine, target: Target) -> None:
    target.script["/in"] = [500] * 3
    assert Deployed(engine, "webhook-to-http", url=target.url("/in"), method="PUT", **FAST).run({}) == "failed"
    assert [call.method for call in target.calls] == ["PUT"] * 3
    assert "authorization" not in target.calls[0].headers


@pytest.mark.parametrize("decision", ["approved", "rejected", "timed_out"])
def test_approval(engine: RunningEngine, target: Target, decision: str) -> None:
    config = {"request_url": target.url("/ask"), "decision_url": target.url("/decided"), "question": 'Pay "this"?'}
    timeout = 0.3 if decision == "timed_out" else 60
    deployed = Deployed(engine, "approval", {"authorization": "Bearer a"}, timeout_seconds=timeout, **config)
    # An event cannot decide about itself.
    event = {"amount": 7, "approval_decision": "approved", "decision": "approved"}
    run = deployed.start(event)
    if decision != "timed_out":
        answer(engine, run, decision)
    assert engine.ended(run)["state"] == "completed"
    asked, told = target.calls
    assert asked.json == {"question": 'Pay "this"?', "choices": ["approved", "rejected"], "request": event}
    assert (told.json["decision"], told.json["question"]) == (decision, 'Pay "this"?')
    assert told.json["request"] == event
    assert told.headers["authorization"] == "Bearer a"


def answer(engine: RunningEngine, run: str, decision: str) -> None:
    def waits() -> bool:
        items = engine.http.get("/api/v1/approvals", params={"limit": 1000}).json()["items"]
        return any(item["instance_id"] == run and item["prompt"] == 'Pay "this"?' for item in items)

    eventually(waits)
    body = {"signal_type": {"custom": "human_input:decision"}, "payload": {"value": decision}}
    assert engine.http.post(f"/api/v1/instances/{run}/signals", json=body).status_code == 201


@pytest.mark.parametrize(("statuses", "sent"), [([204], 1), ([200, 204], 2), ([200, 200, 200], 3)])
def test_reminders(engine: RunningEngine, target: Target, statuses: list[int], sent: int) -> None:
    target.script["/remind"] = statuses
    waits: dict[str, Any] = {f"{which}_after_seconds": 0.1 for which in ("first", "second", "third")}
    assert Deployed(engine, "delayed-reminders", url=target.url("/remind"), **waits).run({"who": "Ada"}) == "completed"
    assert [call.json for call in target.calls] == [
        {"reminder": number, "event": {"who": "Ada"}} for number in range(1, sent + 1)
    ]


def test_fan_out(engine: RunningEngine, target: Target) -> None:
    urls = [target.url(path) for path in ("/a", "/b", "/c")]
    target.script["/b"] = [500]
    assert Deployed(engine, "fan-out", urls=urls, **FAST).run({"id": "e-1"}) == "completed"
    assert {path: len(target.to(path)) for path in ("/a", "/b", "/c")} == {"/a": 1, "/b": 2, "/c": 1}
    assert {call.headers["x-event-id"] for call in target.calls} == {"e-1"}
    assert all(call.json == {"event": {"id": "e-1"}} for call in target.calls)


def test_fan_out_to_one_that_is_down(engine: RunningEngine, target: Target) -> None:
    target.script["/down"] = [500] * 3
    urls = [target.url(path) for path in ("/down", "/up")]
    deployed = Deployed(engine, "fan-out", urls=urls, **FAST)
    found = engine.ended(deployed.start({}))
    assert (found["state"], found["error"]["step_id"]) == ("failed", "send_1")
    assert len(target.to("/up")) == 1


def test_report(engine: RunningEngine, target: Target) -> None:
    target.bodies["/daily"] = b'{"sales": 3}'
    secrets = {"source_authorization": "Bearer s", "destination_authorization": "Bearer d"}
    config = {"source_url": target.url("/daily"), "destination_url": target.url("/chat")}
    deployed = Deployed(engine, "scheduled-report", secrets, cron="* * * * *", timezone="Europe/Berlin", **config)
    assert deployed.trigger == {"type": "schedule", "cron": "* * * * *", "timezone": "Europe/Berlin"}
    assert deployed.run({}) == "completed"
    # What the schedule starts is the same; seconds, which a deployment cannot choose, keep the test short.
    schedule = {"tenant_id": TENANT, "namespace": "default", "sequence_id": deployed.sequence_id}
    made = engine.http.post("/api/v1/cron", json={**schedule, "cron_expr": "* * * * * *", "timezone": "Europe/Berlin"})
    assert made.status_code == 201, made.text
    eventually(lambda: len(target.to("/chat")) >= 2)
    assert engine.http.delete(f"/api/v1/cron/{made.json()['id']}").status_code == 204
    assert [call.json for call in target.to("/chat")][:2] == [{"report": {"sales": 3}}] * 2
    assert {call.headers["authorization"] for call in target.to("/daily")} == {"Bearer s"}
    assert {call.headers["authorization"] for call in target.to("/chat")} == {"Bearer d"}


@pytest.mark.parametrize(
    ("charges", "notices", "cancelled"),
    [
        ([200], ["paid"], 0),
        ([402, 500, 200], ["payment_failed", "paid"], 0),
        ([402, 402, 200], ["payment_failed", "last_warning", "paid"], 0),
        ([402, 402, 402], ["payment_failed", "last_warning", "cancelled"], 1),
    ],
)
def test_dunning(engine: RunningEngine, target: Target, charges: list[int], notices: list[str], cancelled: int) -> None:
    target.script["/charge"] = list(charges)
    deployed = dunning(engine, target, second_after_seconds=0.1, third_after_seconds=0.1)
    assert deployed.run({"invoice_id": "in_1", "amount": 5}) == "completed"
    assert [call.json["notice"] for call in target.to("/notice")] == notices
    assert len(target.to("/charge")) == len(charges)
    assert len(target.to("/cancel")) == cancelled
    first = target.to("/charge")[0]
    invoice = {"invoice_id": "in_1", "amount": 5}
    assert first.json == {"attempt": 1, "invoice": invoice}
    assert all(call.json["invoice"] == invoice for call in target.calls)
    assert (first.headers["idempotency-key"], first.headers["authorization"]) == ("in_1-1", "Bearer b")
    assert all("authorization" not in call.headers for call in target.to("/notice"))


def test_dunning_goes_on_where_nobody_can_be_told(engine: RunningEngine, target: Target) -> None:
    target.script |= {"/charge": [402, 200], "/notice": [500] * 3}
    assert dunning(engine, target, second_after_seconds=0.1).run({"invoice_id": "in_2"}) == "completed"
    assert [call.json["notice"] for call in target.to("/notice")] == ["payment_failed"] * 3 + ["paid"]


def dunning(engine: RunningEngine, target: Target, **config: Any) -> Deployed:
    urls = {f"{what}_url": target.url(f"/{what}") for what in ("charge", "notice", "cancel")}
    return Deployed(engine, "payment-dunning", {"billing_authorization": "Bearer b"}, **urls, **FAST, **config)


def test_no_secret_stays_readable(engine: RunningEngine, target: Target) -> None:
    secret = f"Bearer {uuid.uuid4().hex}"
    assert Deployed(engine, "webhook-to-http", {"authorization": secret}, url=target.url("/in")).run({}) == "completed"
    stored = b"".join(path.read_bytes() for path in engine.folder.glob("orch8.db*"))
    assert secret.removeprefix("Bearer ").encode() not in stored
