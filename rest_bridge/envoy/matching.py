"""Filters that are skipped where a header says so (ExtensionWithMatcher): the skipped filter is not even made."""

from rest_bridge.envoy.fragments import Json, extension

_INPUTS = "envoy.type.matcher.v3"


def skipping(name: str, wrapped: Json, *predicates: Json) -> Json:
    """A filter that is skipped where any of the predicates holds."""
    skip = extension("skip", "envoy.extensions.filters.common.matcher.action.v3.SkipFilter")
    matchers = [{"predicate": predicate, "on_match": {"action": skip}} for predicate in predicates]
    return extension(
        name,
        "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        extension_config=wrapped,
        xds_matcher={"matcher_list": {"matchers": matchers}},
    )


def request_header(name: str, pattern: str) -> Json:
    """Whether the caller sent such a header. The pattern has to fit the whole value."""
    return _header("HttpRequestHeaderMatchInput", name, pattern)


def answer_header(name: str, pattern: str) -> Json:
    """Whether the answer has such a header. The pattern has to fit the whole value."""
    return _header("HttpResponseHeaderMatchInput", name, pattern)


def not_(predicate: Json) -> Json:
    """Whether it does not hold; it does not for a header that is missing."""
    return {"not_matcher": predicate}


def _header(kind: str, name: str, pattern: str) -> Json:
    found = {
        "input": extension("header", f"{_INPUTS}.{kind}", header_name=name),
        "value_match": {"safe_regex": {"google_re2": {}, "regex": pattern}},
    }
    return {"single_predicate": found}
