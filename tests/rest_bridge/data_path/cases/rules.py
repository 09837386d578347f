"""Allow rules: each a policy of its own, and a token that it lets in or does not."""

from collections.abc import Mapping
from typing import Any

from tests.rest_bridge.data_path.cases.case import Case, passes, refused
from tests.rest_bridge.data_path.world import policy, token
from tests.rest_bridge.proxy.cases import ENDING_KEY, KEY, PREFIX, Instance, bearer

# Rules, claims, and whether the rules let the claims in.
ROWS: list[tuple[list[Mapping[str, Any]], Mapping[str, Any], bool]] = [
    ([], {}, True),
    ([{"team": "a"}], {"team": "a"}, True),
    ([{"team": "a"}], {"team": "A"}, False),
    ([{"team": "a"}], {"team": "ab"}, False),
    ([{"team": "a"}], {}, False),
    ([{"team": ""}], {"team": ""}, True),
    ([{"team": ""}], {}, False),
    ([{"team": "None"}], {"team": None}, False),
    ([{"team": "a", "stage": "b"}], {"team": "a", "stage": "b"}, True),
    ([{"team": "a", "stage": "b"}], {"team": "a"}, False),
    ([{"team": "a"}, {"stage": "b"}], {"stage": "b"}, True),
    ([{"team": "a"}, {"stage": "b"}], {"team": "b", "stage": "a"}, False),
    ([{"team": ["a", "b"]}], {"team": "b"}, True),
    ([{"team": ["a", "b"]}], {"team": "c"}, False),
    ([{"team": "a"}], {"team": ["x", "a"]}, True),
    ([{"team": ["a", "b"]}], {"team": ["x", "b"]}, True),
    ([{"team": ["a", "b"]}], {"team": ["x", "y"]}, False),
    ([{"team": "a"}], {"team": []}, False),
    ([{"number": 1}], {"number": 1}, True),
    ([{"number": 1}], {"number": 1.0}, True),
    ([{"number": 1}], {"number": "1"}, False),
    ([{"number": "1"}], {"number": 1}, False),
    ([{"number": 1}], {"number": True}, False),
    ([{"flag": True}], {"flag": True}, True),
    ([{"flag": True}], {"flag": 1}, False),
    ([{"flag": True}], {"flag": "true"}, False),
    ([{"flag": False}], {}, False),
    ([{"ref": {"glob": "refs/heads/*"}}], {"ref": "refs/heads/main"}, True),
    ([{"ref": {"glob": "refs/heads/*"}}], {"ref": "refs/tags/main"}, False),
    ([{"ref": {"glob": "heads/*"}}], {"ref": "refs/heads/main"}, False),
    ([{"ref": {"glob": "refs/*"}}], {"ref": "refs/heads/\nmain"}, True),
    ([{"ref": {"glob": "v?"}}], {"ref": "v1"}, True),
    ([{"ref": {"glob": "v?"}}], {"ref": "v10"}, False),
    ([{"ref": {"glob": "[a]"}}], {"ref": "a"}, False),
    ([{"ref": {"glob": "[a]"}}], {"ref": "[a]"}, True),
    ([{"ref": [{"glob": "x*"}, "main"]}], {"ref": "main"}, True),
    ([{"ref": {"glob": "a*"}}], {"ref": ["b", "ab"]}, True),
    ([{"ref": {"glob": "*"}}], {"ref": 5}, False),
    ([{"ref": "refs/*"}], {"ref": "refs/heads"}, False),
    ([{"a.b": "1"}], {"a": {"b": "1"}}, True),
    ([{"a.b": "1"}], {"a.b": "1"}, True),
    ([{"a.b": "1"}], {"a.b": "2", "a": {"b": "1"}}, False),
    ([{"a.b.c": "1"}], {"a": {"b": {"c": ["0", "1"]}}}, True),
    ([{"a.b": "1"}], {"a": "1"}, False),
    ([{"a.b": "1"}], {"a": [{"b": "1"}]}, False),
    ([{"oidc.circleci.com/project-id": "p"}], {"oidc.circleci.com/project-id": "p"}, True),
    ([{"a": "1"}], {"a": {"b": "1"}}, False),
]

INSTANCES = {
    f"inst_rule{number}": Instance(policies=[policy("oidc", *rules)]) for number, (rules, _, _) in enumerate(ROWS)
}


def _case(number: int, rules: Any, claims: Mapping[str, Any], fits: bool) -> Case:
    name, path = f"{rules} for {claims}", f"/api/tunnel/inst_rule{number}/x"
    credential = bearer(token("oidc", **claims))
    return passes(name, path, credential) if fits else refused(name, path, 403, "RULE_MISMATCH", credential)


CASES: list[Case] = [
    *(_case(number, *row) for number, row in enumerate(ROWS)),
    passes("a key's rule matches", "/api/tunnel/inst_ruled/x", bearer(KEY), sees={"x-gateway-subject": PREFIX}),
    refused("a key's rule does not match", "/api/tunnel/inst_ruled/x", 403, "RULE_MISMATCH", bearer(ENDING_KEY)),
    refused("no rule matches", "/api/tunnel/inst_closed/x", 403, "RULE_MISMATCH", bearer(KEY)),
    refused("anonymous with a rule", "/api/tunnel/inst_nobody/x", 403, "RULE_MISMATCH"),
]
