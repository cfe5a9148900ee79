"""Reading of large JSON and XML files value by value, in bounded memory."""

import json
from codecs import getincrementaldecoder
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any
from xml.parsers import expat

from stpp.store.files import MALFORMED, StppError, open_regular

LARGEST = 2**25
"""The longest value that is read as a whole, in characters or bytes: an image with all its objects."""
CHUNK = 2**16
DEEPEST = 100
"""The most elements of an XML file inside each other."""


def json_values(path: Path, opened: Collection[str] = ()) -> Iterator[tuple[str, str, Any]]:
    """Yield the values of a JSON file: (key, inner key, value), in the order of the file.

    The file is an object, or a list, whose key is then empty. The keys in `opened` are yielded item by item: the inner
    key is the position in a list or the key in an object; it is empty for all other keys. An item must not be longer
    than LARGEST. Raises StppError naming the file if it is malformed.
    """
    try:
        with open_regular(path) as file:
            yield from _JsonText(file).walk(opened)
    except OSError as error:
        raise StppError(f"{path}: not readable: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StppError(f"{path}: not readable: not UTF-8; export it again as UTF-8") from None
    except MALFORMED as error:
        what = "values nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise StppError(f"{path}: not readable as JSON ({what[:200]}); export it again") from None


class _JsonText:
    """The text of a JSON file, of which memory holds the part that is being decoded."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._decode = file, getincrementaldecoder("utf-8-sig")().decode
        self._text, self._at, self._ended = "", 0, False
        self._value_at = json.JSONDecoder().raw_decode

    def walk(self, opened: Collection[str]) -> Iterator[tuple[str, str, Any]]:
        if self._next() == "[":
            yield from (("", key, value) for key, value in self._items())
        else:
            for key in self._keys():
                if key in opened and self._next() in "[{":
                    yield from ((key, inner, value) for inner, value in self._items())
                else:
                    yield key, "", self._value()
        if self._next():
            raise ValueError("text after its end")

    def _items(self) -> Iterator[tuple[str, Any]]:
        if self._next() == "{":
            for key in self._keys():
                yield key, self._value()
            return
        self._take("[")
        at = 0
        while self._next() != "]":
            if at:
                self._take(",")
            yield str(at), self._value()
            at += 1
        self._take("]")

    def _keys(self) -> Iterator[str]:
        """Yield the keys of an object; the caller reads the value of each before the next one."""
        self._take("{")
        first = True
        while self._next() != "}":
            if not first:
                self._take(",")
            first = False
            key = self._value()
            if not isinstance(key, str):
                raise ValueError("a key that is no text")
            self._take(":")
            yield key
        self._take("}")

    def _next(self) -> str:
        """Return the next character that is no white space, empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in " \t\r\n":
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def _take(self, expected: str) -> None:
        if self._next() != expected:
            raise ValueError(f"expected `{expected}`, found `{self._text[self._at : self._at + 20]}`")
        self._at += 1

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._value_at(self._text, self._at)
                if end < len(self._text) or self._ended:  # else it may be a part of a longer number
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                # A text that only lacks its end fails near it, or at the start of a string without an end.
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - 64
                if self._ended or not cut:
                    raise
            self._more()

    def _more(self) -> bool:
        """Read on: at least as much again as is left, so that a long value costs few attempts."""
        left = len(self._text) - self._at
        if left > LARGEST:
            raise ValueError(f"a value is longer than {LARGEST} characters")
        data = self._file.read(max(CHUNK, min(left, LARGEST + 1 - left)))
        self._ended = not data
        self._text = self._text[self._at :] + self._decode(data, not data)
        self._at = 0
        return not self._ended


def xml_tags(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the start tags of an XML file: the name and the attributes of every element, in the order of the file.

    A text in an element follows as the path of the element, such as `annotations/version`, and {"": the text}; a long
    text comes in parts. Raises StppError naming the file if it is malformed, or if it declares a document type:
    entities can expand to gigabytes, or name other files.
    """
    tags: list[tuple[str, dict[str, str]]] = []
    names: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        names.append(name)
        if len(names) > DEEPEST:
            raise ValueError("elements nested too deeply")
        tags.append((name, attributes))

    def end(name: str) -> None:
        names.pop()

    def text(data: str) -> None:
        if not data.isspace():
            tags.append(("/".join(names), {"": data}))

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type, which may hold entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, refuse
    parser.CharacterDataHandler, parser.buffer_text = text, True
    try:
        with open_regular(path) as file:
            fed = left = 0
            while True:
                # As much again as the tag has so far: the parser begins a tag anew with every part of it.
                data = file.read(max(CHUNK, min(left, LARGEST + 1 - left)))
                parser.Parse(data, not data)
                fed += len(data)
                left = fed - parser.CurrentByteIndex
                if left > LARGEST:
                    raise ValueError(f"a tag is longer than {LARGEST} bytes")
                yield from tags
                tags.clear()
                if not data:
                    return
    except OSError as error:
        raise StppError(f"{path}: not readable: {error.strerror}") from None
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise StppError(f"{path}: not readable as XML ({error}); export it again") from None
