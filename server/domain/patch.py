"""The difference between a field that was not given and one that was given as null."""

from enum import Enum
from typing import Final, Literal, TypeVar


class _Unset(Enum):
    UNSET = "unset"


UNSET: Final = _Unset.UNSET
Unset = Literal[_Unset.UNSET]

T = TypeVar("T")


def chosen(new: T | Unset, old: T) -> T:
    """The new value where one was given, null included; else the old one."""
    return old if new is UNSET else new
