"""How rounds become figures, and figures a verdict."""

import pytest

from bench.generators import Figures
from bench.table import Verdict, lines, unrest, verdicts

ROWS = ("bare-envoy", "tunnel-api-key", "tunnel-oidc", "tunnel-api-key-1000")


def figures(rps: float, p50: float = 100) -> Figures:
    return Figures(requests=int(rps), rps=rps, p50_us=p50, p99_us=2 * p50)


def measured(**changes: Figures) -> dict[tuple[str, int], list[Figures]]:
    """One round in which every target is just met, but for the changes (names with `_`, at 32; `_one` at 1)."""
    good = {"bare-envoy": figures(1000), "tunnel-api-key": figures(400), "tunnel-oidc": figures(350)}
    good["tunnel-api-key-1000"] = figures(360)
    found = {(name, 32): [good[name]] for name in ROWS}
    found |= {(name, 1): [figures(100, 100 if name == "bare-envoy" else 400)] for name in ROWS}
    for name, value in changes.items():
        key = (name.removesuffix("_one").replace("_", "-"), 1 if name.endswith("_one") else 32)
        assert key in found
        found[key] = [value]
    return found


def test_the_median_of_the_rounds_counts() -> None:
    rounds = [figures(100, 30), figures(900, 10), figures(110, 20)]
    (line,) = lines({("bare-envoy", 1): rounds})
    assert (line.rps, line.p50_us, line.p99_us, line.of_bare_envoy) == (110, 20, 40, 1)


def test_the_ratio_is_to_bare_envoy_with_as_many_connections() -> None:
    table = lines({("bare-envoy", 1): [figures(50)], ("bare-envoy", 32): [figures(200)], ("x", 32): [figures(100)]})
    assert [line.of_bare_envoy for line in table] == [1, 1, 0.5]


def test_targets_that_are_just_met() -> None:
    found = verdicts(lines(measured()))
    assert len(found) == 5
    assert all(one.met for one in found), found


@pytest.mark.parametrize(
    ("change", "target"),
    [
        ({"tunnel_api_key": figures(399)}, "tunnel-api-key: at least 0.40"),
        ({"tunnel_oidc": figures(349)}, "tunnel-oidc: at least 0.35"),
        ({"tunnel_api_key_one": figures(100, 401)}, "tunnel-api-key: p50 at most 300 µs over"),
        ({"tunnel_oidc_one": figures(100, 401)}, "tunnel-oidc: p50 at most 300 µs over"),
        ({"tunnel_api_key_1000": figures(359)}, "tunnel-api-key-1000: at least 0.90"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_target_that_is_just_missed(change: dict[str, Figures], target: str) -> None:
    missed: list[Verdict] = [one for one in verdicts(lines(measured(**change))) if not one.met]
    assert len(missed) == 1
    assert missed[0].target.startswith(target)


def test_rounds_that_differ_are_unrest() -> None:
    assert unrest({("bare-envoy", 32): [figures(100), figures(150), figures(90)]}) == pytest.approx(0.6)
