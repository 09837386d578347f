"""Several servers and proxies: which of them get requests, and when a request is sent to a second one.

A second try is made only where it cannot do a thing twice: where nobody has seen the first, or where it only asks.
"""

from rest_bridge.envoy.fragments import Json, extension
from server.domain.addresses import Addresses

# The one who was asked has not seen the request in any of these cases.
UNSEEN = "connect-failure,refused-stream"
# For what only asks, and may be asked twice.
QUESTION = f"{UNSEEN},reset"
# A proxy that cannot know what is true now says so with this header: another one may.
ELSEWHERE = "x-orch8-ask-another"

# How a replica is asked whether it takes requests. Each says so before it stops, for its ORCH8_DRAIN_DELAY.
GRPC: Json = {"grpc_health_check": {}}
PROXIES: Json = {"http_health_check": {"path": "/readyz"}}

_TRIES = 2


def only_the_healthy(addresses: Addresses, check: Json) -> Json:
    """What a cluster says of its replicas. Where none is healthy all are tried: their own words tell callers more.

    One that says that it stops gets nothing more at once; one that does not answer, after the second time.
    """
    if not addresses.may_be_several:
        return {}
    asked = {"interval": "1s", "no_traffic_interval": "1s", "timeout": "2s"}
    return {
        "health_checks": [{**asked, "unhealthy_threshold": 2, "healthy_threshold": 1, **check}],
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
        "outlier_detection": _outliers(),
    }


def _outliers() -> Json:
    """Only whom nobody reaches is left out: an error that all of them give would leave out one after the other."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "base_ejection_time": "2s",
        "max_ejection_time": "5s",
        "max_ejection_percent": 50,
    }


def retry(when: str) -> Json:
    """A retry policy: a second and a third try, with one that was not tried yet if there is any."""
    kind = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": when,
        "num_retries": _TRIES,
        "retry_host_predicate": [extension("envoy.retry_host_predicates.previous_hosts", kind)],
        "host_selection_retry_max_attempts": 5,
    }
