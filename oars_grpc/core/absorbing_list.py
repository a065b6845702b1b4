"""Many conditions in one expression, such that one without a value spoils none of the others.

A list of conditions has no value as soon as one of its elements has none. So each element c becomes
`@not_strictly_false(c)`: the function with which CEL's own macros `all` and `exists` look at an
element, false for false and true for everything else. It can be told only as checked expression,
never as text, which is why the list is compiled from text and its elements are wrapped afterwards.
The elements themselves stay as CEL has checked them, byte for byte.
"""

from collections.abc import Iterable

from oars_grpc.core.checked_expression import fields

# Above the ids of any expression that a policy has room for.
_FIRST_ID = 1 << 32
_TAG_OF_KEY, _TAG_OF_ID = b"\x08", b"\x10"  # numbers in fields 1 and 2
_NOT_FALSE = ("@not_strictly_false", "not_strictly_false")
_NOT = ("!_", "logical_not")


def absorbing(serialized: bytes, count: int) -> tuple[bytes, bytes]:
    """From a checked list of `count` conditions, one of wrapped c and one of wrapped `!c`.

    So an element of the first is false if and only if the condition is definitely false, and one of
    the second if and only if it is definitely true.

    Raises:
        ValueError: it is not a list of that many elements.
    """
    ((type_url,), (checked,)) = (fields(serialized)[number] for number in (1, 2))
    start, content, end = _find(checked, 4)
    root = fields(checked[content:end])
    elements = fields(root[7][0]).get(1, []) if 7 in root else []
    if len(elements) != count:
        raise ValueError(f"a list of {count} conditions has {len(elements)} elements")

    def wrapped_in(*wrappers: tuple[str, str]) -> bytes:
        references, parts, next_id = b"", elements, _FIRST_ID
        for function, overload in wrappers:
            name, reference = _text(2, function), _bytes(2, _text(3, overload))
            ids = [_number_of(next_id + position) for position in range(count)]
            parts = [
                _TAG_OF_ID + number + _bytes(6, name + _bytes(3, part))
                for number, part in zip(ids, parts, strict=True)
            ]
            references += _all(2, (_TAG_OF_KEY + number + reference for number in ids))
            next_id += count
        listed = _TAG_OF_ID + _number_of(root[2][0]) + _bytes(7, _all(1, parts))
        return _bytes(1, type_url) + _bytes(
            2, checked[:start] + references + _bytes(4, listed) + checked[end:]
        )

    return wrapped_in(_NOT_FALSE), wrapped_in(_NOT, _NOT_FALSE)


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
