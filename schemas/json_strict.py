"""Strict JSON: the first gate an event's bytes pass, refusing all that PostgreSQL, a log or another reader could choke on."""

import json
from typing import Any, Never

import orjson

MAX_BYTES = 1 << 20
"""Of one value; Kafka's own limit is the same, dead letters may be twice as long."""
MAX_DEPTH = 32
MAX_ITEMS = 20_000
"""Commas and opening brackets in one document, texts included: no document has more items than that, and looking
at so many takes a few milliseconds, which is as long as the event loop may be held."""
INT8 = 1 << 63


class Flaw(Exception):
    """What is wrong with a record: a code, and a sentence that quotes nothing of it."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.code = code
        self.sentence = sentence


def parse(value: bytes | None, *, duplicates: bool) -> Any:
    """The document in `value`; with `duplicates` also an object that has one key twice is refused (readers differ in which one counts)."""
    if not value:
        raise Flaw("empty_value", "the record has no value; publish a JSON object")
    if len(value) > MAX_BYTES:
        raise Flaw("too_large", f"the value has {len(value)} bytes, the limit is {MAX_BYTES}; put large data into a bucket and publish its path")
    if value.count(b",") + value.count(b"[") + value.count(b"{") > MAX_ITEMS:
        raise Flaw("too_many_items", f"the value has more than {MAX_ITEMS} commas and brackets; put large data into a bucket and publish its path")
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        document = _FAILED
    if document is _FAILED:  # outside of the except: the decoder's error holds the whole payload and must not travel with ours
        raise _diagnose(value)
    keys, doubtful = _survey(document)
    # every written key has a colon, so as many colons as surviving keys proves that no key was written twice
    if doubtful or (duplicates and value.count(b":") != keys):
        _reparse(value.decode(), duplicates=duplicates)
    return document


_FAILED = object()


def canonical(document: Any) -> bytes:
    """The same bytes for the same document, however its keys were ordered and spaced."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def _survey(document: Any) -> tuple[int, bool]:
    """Count the keys below `document` level by level and check every value; True when a number may be an integer past int8."""
    keys, depth, doubtful = 0, 0, False
    level: list[dict[str, Any] | list[Any]] = [[document]]
    while level:
        if depth > MAX_DEPTH:
            raise Flaw("too_deep", f"the value is nested deeper than {MAX_DEPTH} levels; flatten it")
        depth += 1
        deeper: list[dict[str, Any] | list[Any]] = []
        for box in level:
            if isinstance(box, dict):
                keys += len(box)
                _check_text("".join(box))
            for item in box.values() if isinstance(box, dict) else box:
                kind = type(item)
                if kind is str:
                    _check_text(item)
                elif kind is dict or kind is list:
                    deeper.append(item)
                elif kind is float or kind is int:
                    # orjson reads integers past 64 bits as floats: only the text can tell
                    doubtful = doubtful or not -INT8 < item < INT8
        level = deeper
    return keys, doubtful


def _check_text(text: str) -> None:
    if "\0" in text:
        raise Flaw("bad_text", "the value has a NUL character in a text; remove it")


def _reparse(text: str, *, duplicates: bool) -> Any:
    """Parse once more, slowly, with an eye on each number and key."""
    pairs = _unique if duplicates else None
    return json.loads(text, parse_int=_int, parse_float=_float, parse_constant=_constant, object_pairs_hook=pairs)


def _diagnose(value: bytes) -> Flaw:
    """Name what made the fast parser refuse `value`."""
    try:
        document = _reparse(value.decode(), duplicates=True)
        _survey(document)
        json.dumps(document, ensure_ascii=False).encode()
    except Flaw as flaw:
        return flaw
    except UnicodeDecodeError:
        return Flaw("bad_utf8", "the value is not UTF-8; publish JSON in UTF-8")
    except UnicodeEncodeError:
        return Flaw("bad_text", "the value has half a surrogate pair in a text; send whole characters")
    except RecursionError:
        return Flaw("too_deep", f"the value is nested deeper than {MAX_DEPTH} levels; flatten it")
    except ValueError:
        pass
    return Flaw("bad_json", "the value is not valid JSON; publish a JSON object")


def _int(digits: str) -> int:
    if len(digits) > 20 or not -INT8 <= int(digits) < INT8:
        raise Flaw("bad_number", "the value has an integer that does not fit into 64 bits; send it as a text")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Flaw("bad_number", "the value has a number too large for a float; send it as a text")
    return number


def _constant(_: str) -> Never:
    raise Flaw("bad_number", "the value has NaN or Infinity, which JSON does not know; leave the field out or send null")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Flaw("duplicate_keys", "an object in the value has the same key twice; send each key once")
    return fields
