"""What is valid in a policy and still risky, or does nothing. Each warning has a code, and says what to change."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from server.domain.keys import is_public_prefix
from server.domain.policies import PolicyFields
from server.domain.providers import Provider, has_claim, is_text, issuer_of, kind_of
from server.domain.rules import JSON, Rule, matches

# What may stand before the first wildcard of a glob: with anything else, acme* lets acme-evil in.
DELIMITERS = "/:@"
# What only says of which kind a name is, and whose it is comes after: repo:* lets everybody in.
LABEL = re.compile(r"\w+:(//)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Warning:  # noqa: A001 - the field's word, and the built-in one is never used here
    """One risk: its code, the field that it is about, and what to change."""

    reason: str
    field: str
    message: str


def warnings(fields: PolicyFields) -> list[Warning]:
    """Everything that the owner of a policy should think about again."""
    provider = kind_of(fields.provider, fields.issuer)
    found = [*_policy_warnings(fields, provider)]
    for index, rule in enumerate(fields.allow):
        path = f"allow[{index}]"
        found += _never_matching(path, rule, fields, provider)
        if provider.is_oidc:
            found += _rule_warnings(path, rule, provider)
    return [*found, *_shadowed(fields.allow)]


def _policy_warnings(fields: PolicyFields, provider: Provider) -> Iterator[Warning]:
    if provider.shared and not fields.allow:
        issuer = issuer_of(fields.provider, fields.issuer, fields.config)
        yield Warning(
            reason="SHARED_ISSUER_OPEN",
            field="allow",
            message=f"{issuer} signs for everybody: anyone's workload can call in. "
            f"Add a rule, on {' or '.join(provider.stable[:2])}.",
        )
    if provider.is_oidc and fields.audience is None:
        yield Warning(
            reason="AUDIENCE_MISSING",
            field="audience",
            message=f"A token that was made for another service is accepted too. Set {provider.audience}.",
        )


def _rule_warnings(path: str, rule: Rule, provider: Provider) -> Iterator[Warning]:
    names = set(rule)
    anchored = bool(names & set(provider.stable))
    renameable = sorted(names & set(provider.renameable))
    if renameable and not anchored:
        yield Warning(
            reason="NAME_REUSABLE",
            field=f"{path}.{renameable[0]}",
            message=f"Names can be given up and registered by somebody else. Add {' or '.join(provider.stable[:2])}.",
        )
    if provider.shared and not anchored and not renameable:
        yield Warning(
            reason="CALLER_CHOSEN_CLAIMS",
            field=path,
            message=f"Anyone's workload can have these claims. Add {' or '.join(provider.stable[:2])}.",
        )
    yield from _pull_requests(path, rule)
    for claim, expected in rule.items():
        yield from _wide_globs(f"{path}.{claim}", expected)


def _pull_requests(path: str, rule: Rule) -> Iterator[Warning]:
    for claim, mark in (("sub", ":pull_request"), ("event_name", "pull_request")):
        if any(mark in value for value in _texts(rule.get(claim))):
            yield Warning(
                reason="PULL_REQUEST_SUBJECT",
                field=f"{path}.{claim}",
                message="All pull requests look alike, those of strangers too. Match a branch or an environment.",
            )


def _wide_globs(path: str, expected: JSON) -> Iterator[Warning]:
    for value in _values(expected):
        if isinstance(value, Mapping):
            pattern = str(value["glob"])
            literal = re.split(r"[*?]", pattern, maxsplit=1)[0]
            if literal != pattern and (not literal or literal[-1] not in DELIMITERS or LABEL.fullmatch(literal)):
                yield Warning(
                    reason="WIDE_GLOB",
                    field=path,
                    message=f"{pattern!r} also fits names of others. Write the owner's name out, and / or : behind it.",
                )


def _never_matching(path: str, rule: Rule, fields: PolicyFields, provider: Provider) -> Iterator[Warning]:
    for claim, expected in rule.items():
        if why := _why_never(claim, expected, fields, provider):
            yield Warning(reason="NEVER_MATCHES", field=f"{path}.{claim}", message=why)


def _why_never(claim: str, expected: JSON, fields: PolicyFields, provider: Provider) -> str | None:
    if not has_claim(provider, claim):
        known = f" It has {', '.join(sorted(provider.claims)[:8])}." if provider.claims else ""
        return f"{provider.name} has no claim {claim!r}.{known}"
    issuer = issuer_of(fields.provider, fields.issuer, fields.config)
    if claim == "iss" and issuer is not None and not matches(expected, issuer):
        return f"The issuer of this policy is always {issuer}."
    if is_text(provider, claim) and all(isinstance(value, int | float) for value in _values(expected)):
        return f"{provider.name} writes {claim} as a string: put the value into quotes."
    if provider.name == "api-key" and claim == "sub" and not any(map(_fits_a_key, _values(expected))):
        return "The sub of an API key is its prefix: orc8_live_ or orc8_test_, and the 8 characters after that."
    if provider.name == "anonymous" and not matches(expected, "anon"):
        return 'The only claim of an anonymous caller is sub, and it is always "anon".'
    return None


def _fits_a_key(value: JSON) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, str) and is_public_prefix(value))


def _shadowed(allow: Sequence[Rule]) -> Iterator[Warning]:
    for index, rule in enumerate(allow):
        for other, wider in enumerate(allow):
            # Of two equal rules the second is the one too many.
            if other != index and _covers(wider, rule) and (other < index or not _covers(rule, wider)):
                yield Warning(
                    reason="SHADOWED",
                    field=f"allow[{index}]",
                    message=f"Whatever it lets in, allow[{other}] lets in already. Remove one of them.",
                )
                break


def _covers(wider: Rule, narrower: Rule) -> bool:
    """Whether every caller that the narrower rule lets in is let in by the wider one."""
    return all(
        claim in narrower and all(_includes(expected, value) for value in _values(narrower[claim]))
        for claim, expected in wider.items()
    )


def _includes(expected: JSON, value: JSON) -> bool:
    return value in _values(expected) if isinstance(value, Mapping) else matches(expected, value)


def _values(expected: JSON) -> Sequence[JSON]:
    return expected if isinstance(expected, list | tuple) else (expected,)


def _texts(expected: JSON) -> list[str]:
    """The strings and glob patterns of a condition."""
    found = (value["glob"] if isinstance(value, Mapping) else value for value in _values(expected))
    return [value for value in found if isinstance(value, str)]
