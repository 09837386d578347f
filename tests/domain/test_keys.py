"""The format of API keys."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import keys

RANDOM = st.binary(min_size=32, max_size=32)
ENVIRONMENT = st.sampled_from(keys.ENVIRONMENTS)


@given(environment=ENVIRONMENT, random=RANDOM)
def test_a_new_key_is_well_formed_and_of_fixed_length(environment: str, random: bytes) -> None:
    key = keys.new_key(environment, random)
    assert re.fullmatch(rf"orc8_{environment}_[0-9A-Za-z]{{49}}", key)
    assert keys.well_formed(key)
    assert keys.looks_like_key(key)


@given(one=RANDOM, other=RANDOM)
def test_no_random_bit_is_lost(one: bytes, other: bytes) -> None:
    assert (keys.new_key("live", one) == keys.new_key("live", other)) == (one == other)


@given(random=RANDOM, position=st.integers(10, 58), character=st.sampled_from("09AZaz"))
def test_a_changed_character_breaks_the_checksum(random: bytes, position: int, character: str) -> None:
    key = keys.new_key("live", random)
    changed = key[:position] + character + key[position + 1 :]
    assert keys.well_formed(changed) == (changed == key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orc8_",
        "orc8_live_",
        keys.new_key("live", bytes(32))[:-1],
        keys.new_key("live", bytes(32)) + "0",
        keys.new_key("live", bytes(32)) + "\n",
        keys.new_key("live", bytes(32)).replace("live", "test"),
        "ORC8" + keys.new_key("live", bytes(32))[4:],
    ],
)
def test_anything_else_is_not_well_formed(text: str) -> None:
    assert not keys.well_formed(text)


def test_the_public_prefix_is_the_start_with_eight_characters() -> None:
    key = keys.new_key("test", bytes(31) + b"\1")
    assert keys.public_prefix(key) == "orc8_test_00000000"
    assert key.startswith("orc8_test_" + "0" * 42 + "1")


def test_the_digest_is_sha256_of_the_whole_key() -> None:
    key = keys.new_key("live", bytes(range(32)))
    assert keys.digest(key) == hashlib.sha256(key.encode()).digest()


@pytest.mark.parametrize(("environment", "random"), [("prod", bytes(32)), ("live", bytes(31))])
def test_wrong_ingredients_are_refused(environment: str, random: bytes) -> None:
    with pytest.raises(ValueError):
        keys.new_key(environment, random)
