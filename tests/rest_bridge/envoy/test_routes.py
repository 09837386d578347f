import itertools
import re

import pytest

from rest_bridge.envoy import filters
from rest_bridge.envoy.descriptors import Binding, bindings, public_services
from rest_bridge.envoy.fragments import LUA, Json, lua_string
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.paths import precedence, regex
from rest_bridge.envoy.routes import rest_routes, routes

LIMITS = Limits()


def binding(method: str, path: str, **changes: object) -> Binding:
    values = {
        "rpc": "a.B.C",
        "method": method,
        "path": path,
        "success": 200,
        "unwrap": "",
        "streams": False,
        "timeout": 0,
    }
    return Binding(**{**values, **changes})  # type: ignore[arg-type]


def example(template: str) -> str:
    return re.sub(r"\{[^}]*\}", "zzz", template)


def test_every_binding_of_every_public_method_has_a_route() -> None:
    found = {(each.rpc, each.method, each.path) for each in bindings()}
    assert ("orch8cloud.v1.InstancesService.ActOnInstance", "PATCH", "/api/instances/{instance_id}") in found
    assert ("orch8cloud.v1.InstancesService.ActOnInstance", "POST", "/api/instances/{instance_id}") in found
    names = [route["name"] for route in rest_routes(bindings(), LIMITS)]
    assert len([name for name in names if name.startswith("rest:")]) == len(found)


def test_no_internal_service_is_public() -> None:
    assert {service.file.package for service in public_services()} == {"orch8cloud.v1"}


def test_no_two_bindings_answer_the_same_request_ambiguously() -> None:
    for one, other in itertools.combinations(bindings(), 2):
        if one.method != other.method or not re.fullmatch(regex(one.path), example(other.path)):
            continue
        assert precedence(one.path) != precedence(other.path), f"{one.rpc} and {other.rpc} share {one.path}"
        # The one that also takes what the other names is the wider of the two, so it must come later.
        assert precedence(other.path) < precedence(one.path), f"{one.path} hides {other.path}"


def test_a_literal_beats_a_variable_whatever_the_order_of_the_protos() -> None:
    made = rest_routes([binding("GET", "/api/{id}"), binding("GET", "/api/current")], LIMITS)
    assert [route["match"].get("path") for route in made] == ["/api/current", "/api/current", None, None]


def test_metadata_says_what_lua_does() -> None:
    (route, _) = rest_routes([binding("POST", "/api/x", success=201, unwrap="items")], LIMITS)
    assert route["metadata"] == {"filter_metadata": {LUA: {"success": "201", "unwrap": "items"}}}


def test_a_stream_is_server_sent_events_without_an_end() -> None:
    (route, _) = rest_routes([binding("GET", "/api/events", streams=True)], LIMITS)
    options = route["typed_per_filter_config"][filters.TRANSCODER]["print_options"]
    assert options["stream_sse_style_delimited"] is True
    assert route["route"]["timeout"] == "0s"


def test_only_readiness_has_to_be_told_soon() -> None:
    soon = [route["name"] for route in rest_routes(bindings(), LIMITS) if route.get("route", {}).get("timeout") == "3s"]
    assert soon == ["rest:orch8cloud.v1.SystemService.GetReadiness"]


def test_only_what_may_wait_has_more_time_than_others() -> None:
    (route, _) = rest_routes([binding("GET", "/api/x", timeout=75)], LIMITS)
    assert route["route"]["timeout"] == "75s"
    patient = {
        route["name"] for route in rest_routes(bindings(), LIMITS) if route.get("route", {}).get("timeout") == "75s"
    }
    assert patient == {
        f"rest:orch8cloud.v1.{method}"
        for method in ("InstancesService.GetInstance", "DeploymentsService.GetDeployment")
    }


def test_other_methods_of_a_path_are_told_which_there_are() -> None:
    made = rest_routes([binding("GET", "/api/x"), binding("POST", "/api/x")], LIMITS)
    assert made[-1]["response_headers_to_add"][0]["header"] == {"key": "allow", "value": "GET, POST"}


def decides(route: Json) -> bool:
    return bool(route["typed_per_filter_config"].get(filters.EXT_AUTHZ) != filters.OFF)


def test_the_decision_is_asked_for_engines_and_for_nothing_else() -> None:
    assert {route["name"] for route in routes(LIMITS, ("https://a.test",)) if decides(route)} == {"tunnel", "gateway"}


@pytest.mark.parametrize("name", ["tunnel", "gateway"])
def test_nothing_reads_the_bytes_of_an_engine(name: str) -> None:
    (route,) = [each for each in routes(LIMITS) if each["name"] == name]
    per_filter = route["typed_per_filter_config"]
    untouched = (filters.COMPRESSOR, filters.BUFFER, filters.TRANSCODER, filters.GRPC_WEB, LUA)
    assert all(per_filter[each] == filters.OFF for each in untouched)


def test_a_literal_of_lua_cannot_be_left() -> None:
    assert lua_string('{"a": "\\n"}') == '[==[{"a": "\\n"}]==]'
    with pytest.raises(ValueError, match="end its own"):
        lua_string("]==]")
