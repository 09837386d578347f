import re

import pytest

from rest_bridge.envoy.paths import matcher, precedence, regex


@pytest.mark.parametrize(
    ("template", "path", "matches"),
    [
        ("/api/instances/{instance_id}", "/api/instances/inst_1", True),
        ("/api/instances/{instance_id}", "/api/instances/", False),
        ("/api/instances/{instance_id}", "/api/instances/a/b", False),
        ("/api/instances/{instance_id=*}/health", "/api/instances/a/health", True),
        ("/api/instances/{id}/policies:explain", "/api/instances/a/policies:explain", True),
        ("/api/v1.0/{id}", "/api/v1x0/a", False),
        ("/api/jobs/{id}:cancel", "/api/jobs/7:cancel", True),
        ("/api/jobs/{id}:cancel", "/api/jobs/7", False),
    ],
)
def test_a_variable_is_one_segment(template: str, path: str, matches: bool) -> None:
    assert bool(re.fullmatch(regex(template), path)) is matches


@pytest.mark.parametrize("template", ["/api/{rest=**}", "/api/*", "/api/{name=a/*}", "api/x", "/api/{x"])
def test_what_cannot_be_matched_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"path|segment"):
        matcher(template)


def test_a_path_without_variables_is_compared_as_a_whole() -> None:
    assert matcher("/api/instances") == {"path": "/api/instances"}


def test_a_literal_is_tried_before_a_variable() -> None:
    paths = ["/api/{x}/b", "/api/{x}", "/api/{x}:go", "/api/a", "/api/a/{y}", "/api/a/b"]
    ordered = sorted(paths, key=precedence)
    assert ordered.index("/api/a") < ordered.index("/api/{x}:go") < ordered.index("/api/{x}")
    assert ordered.index("/api/a/b") < ordered.index("/api/a/{y}") < ordered.index("/api/{x}/b")
