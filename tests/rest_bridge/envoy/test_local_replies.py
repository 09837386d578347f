import pytest

from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.local_replies import Row, local_replies, rows
from rest_bridge.errors import error_body, error_status, grpc_code, http_status


@pytest.mark.parametrize("row", rows(Limits()), ids=lambda row: row.when)
def test_every_row_has_a_reason_of_the_table_and_a_sentence(row: Row) -> None:
    assert http_status(row.reason) >= 400
    assert row.message[0].isupper()


def test_whoever_is_told_to_retry_learns_when_in_both_places() -> None:
    for mapper in local_replies(Limits())["mappers"]:
        added = {each["header"]["key"] for each in mapper.get("headers_to_add", ())}
        details = mapper.get("body_format_override", {}).get("json_format", {}).get("details", [])
        assert any("retry_delay" in detail for detail in details) == bool(added & {"retry-after"})


def test_the_error_table_is_read_by_reason() -> None:
    assert (http_status("PLAN_LIMIT_REACHED"), grpc_code("PLAN_LIMIT_REACHED")) == (402, 8)
    with pytest.raises(ValueError, match="no reason NOPE"):
        http_status("NOPE")
    with pytest.raises(ValueError, match="UNSPECIFIED"):
        http_status("UNSPECIFIED")


def test_the_body_of_an_error_is_a_google_rpc_status() -> None:
    assert error_status("RATE_LIMITED", "Wait.", {"a": "b"}, 2) == {
        "code": 8,
        "message": "Wait.",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "RATE_LIMITED",
                "domain": "cloud.orch8.io",
                "metadata": {"a": "b"},
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "2s"},
        ],
    }
    assert error_body("NOT_FOUND", "„Nein“").decode().count("„Nein“") == 1
