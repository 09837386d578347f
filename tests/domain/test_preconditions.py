"""RFC 9110: 8.8.3 (entity tags), 5.6.1 (lists) and 13.1.1 (If-Match)."""

import pytest

from server.domain.preconditions import ANY, IfMatch, entity_tag
from server.errors import InvalidArgument, VersionMismatch


@pytest.mark.parametrize(
    "text", [None, "*", " * ", '"7"', '"6", "7"', '"6","7","8"', ', ,"7" ,', '"a,b" , "7"', '\t"7"']
)
def test_these_match_revision_7(text: str | None) -> None:
    IfMatch.parse(text).check("instance", 7)


@pytest.mark.parametrize(
    "text",
    ['"6"', '"77"', '""', 'W/"7"', '"6", W/"7"', '"7,"', '"*"', '"07"', '"ä"'],
    ids=lambda text: text.encode().hex(),
)
def test_these_do_not(text: str) -> None:
    with pytest.raises(VersionMismatch) as caught:
        IfMatch.parse(text).check("instance", 7)
    assert caught.value.metadata == {"resource": "instance", "resource_version": "7"}
    assert "resource_version 7" in caught.value.message


@pytest.mark.parametrize(
    "text", ["", " ", ",", "7", '"7', '7"', '"7" "8"', 'w/"7"', 'W/ "7"', '*, "7"', '"a b"', "'7'", '"7"\n', '"7";']
)
def test_these_are_no_entity_tags(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        IfMatch.parse(text)
    assert [one.field for one in caught.value.violations] == ["if-match"]


def test_a_tag_that_was_given_matches_what_it_was_given_for() -> None:
    IfMatch.parse(entity_tag(12)).check("policy", 12)
    assert IfMatch.parse(None) is ANY


def test_long_lists_are_read_in_no_time() -> None:
    """60 KiB of header must not cost more than their length."""
    IfMatch.parse(", ".join(f'"{number}"' for number in range(9_000)) + ', "7"').check("instance", 7)
    for text in ('"7"' + "," * 60_000 + "!", ',"7" ' * 15_000 + "!", " ," * 30_000 + "!", '"7"\t' * 15_000):
        with pytest.raises(InvalidArgument):
            IfMatch.parse(text)
