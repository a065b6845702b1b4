"""Many conditions in one expression, such that one without a value spoils none of the others.

A list of conditions has no value as soon as one of its elements has none. So each element c becomes
a number, by `@not_strictly_false`: the function with which CEL's own macros `all` and `exists` look
at an element, false for false and true for everything else, what has no value included.

    @not_strictly_false(c) ? (@not_strictly_false(!c) ? 2 : 1) : 0

That function can be told only as checked expression, never as text, which is why the list is
compiled from text and its elements are wrapped afterwards. The elements themselves stay as CEL has
checked them, byte for byte.
"""

from collections.abc import Iterable

from oars_grpc.core.checked_expression import fields

# What an element comes to.
DEFINITELY_FALSE, DEFINITELY_TRUE, WITHOUT_VALUE = 0, 1, 2
# Above the ids of any expression that a policy has room for.
_FIRST_ID = 1 << 32
_TAG_OF_KEY, _TAG_OF_ID, _TAG_OF_INT64 = b"\x08", b"\x10", b"\x18"  # numbers in fields 1 to 3


def absorbing(serialized: bytes, count: int) -> bytes:
    """From a checked list of `count` conditions, the list of what each of them comes to.

    Raises:
        ValueError: it is not a list of that many elements.
    """
    ((type_url,), (checked,)) = (fields(serialized)[number] for number in (1, 2))
    start, content, end = _find(checked, 4)
    root = fields(checked[content:end])
    elements = fields(root[7][0]).get(1, []) if 7 in root else []
    if len(elements) != count:
        raise ValueError(f"a list of {count} conditions has {len(elements)} elements")
    wrapper = _Wrapper()
    parts = [wrapper.wrap(element) for element in elements]
    listed = _TAG_OF_ID + _number_of(root[2][0]) + _bytes(7, _all(1, parts))
    references = _all(2, wrapper.references)
    return _bytes(1, type_url) + _bytes(
        2, checked[:start] + references + _bytes(4, listed) + checked[end:]
    )


class _Wrapper:
    """Makes nodes with ids of their own; `references` say which function each of them calls."""

    def __init__(self) -> None:
        self._next_id = _FIRST_ID
        self.references: list[bytes] = []

    def wrap(self, condition: bytes) -> bytes:
        """What a condition comes to, as above."""
        not_true = self._not_false(self._call("!_", "logical_not", condition))
        not_false = self._not_false(condition)
        without_or_true = self._choice(not_true, self._number(WITHOUT_VALUE), DEFINITELY_TRUE)
        return self._choice(not_false, without_or_true, DEFINITELY_FALSE)

    def _choice(self, test: bytes, then: bytes, otherwise: int) -> bytes:
        return self._call("_?_:_", "conditional", test, then, self._number(otherwise))

    def _not_false(self, condition: bytes) -> bytes:
        return self._call("@not_strictly_false", "not_strictly_false", condition)

    def _call(self, function: str, overload: str, *arguments: bytes) -> bytes:
        number = self._take_id()
        self.references.append(_TAG_OF_KEY + number + _bytes(2, _text(3, overload)))
        return _TAG_OF_ID + number + _bytes(6, _text(2, function) + _all(3, arguments))

    def _number(self, value: int) -> bytes:
        return _TAG_OF_ID + self._take_id() + _bytes(3, _TAG_OF_INT64 + _number_of(value))

    def _take_id(self) -> bytes:
        self._next_id += 1
        return _number_of(self._next_id)


def _find(message: bytes, number: int) -> tuple[int, int, int]:
    """Where the field of that number begins, where its content does, and where it ends.

    Of a large message, of which the rest is not worth taking apart; all its fields have lengths.
    """
    at = 0
    while at < len(message):
        start, tag = at, message[at]
        length = shift = 0
        while True:
            at += 1
            length |= (message[at] & 127) << shift
            shift += 7
            if message[at] < 128:
                break
        content, at = at + 1, at + 1 + length
        if tag == number << 3 | 2:
            return start, content, at
    raise ValueError("it is no checked expression")


def _all(number: int, parts: Iterable[bytes]) -> bytes:
    return b"".join(_bytes(number, part) for part in parts)


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode())


def _bytes(number: int, value: bytes) -> bytes:
    return _number_of(number << 3 | 2) + _number_of(len(value)) + value


def _number_of(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
