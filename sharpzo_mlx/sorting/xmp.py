"""Add a label to the keywords of an XMP sidecar (dc:subject), or write a new one.

The bytes of an existing sidecar stay as they are around the new keyword. One with a document type is refused, so that
no entity is ever expanded, and so is one that is not UTF-8 or not XMP.

>>> b"<rdf:li>cat</rdf:li>" in add_keyword(None, "cat")
True
>>> add_keyword(add_keyword(None, "cat"), "cat") == add_keyword(None, "cat")
True
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat
from xml.sax.saxutils import escape

from sharpzo_mlx.datasets.image_set import nfc

LARGEST = 16 << 20  # bytes of a sidecar
DEEPEST = 100  # elements inside one another
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
ROOT, DESCRIPTION, SUBJECT = f"{RDF} RDF", f"{RDF} Description", f"{DC} subject"
LISTS = tuple(f"{RDF} {kind}" for kind in ("Bag", "Seq", "Alt"))
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NEW = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:subject>
    <rdf:Bag>
     <rdf:li>{}</rdf:li>
    </rdf:Bag>
   </dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


def add_keyword(content: bytes | None, keyword: str) -> bytes:
    """Return a sidecar with a keyword, once.

    Args:
        content: the sidecar as it is, or None for a new one.
        keyword: any text; characters that XML cannot hold become spaces.

    Raises:
        ValueError: the sidecar is too large or is none that can be added to; the message is the reason.
    """
    keyword = nfc(" ".join(_NO_XML.sub(" ", keyword).split()))
    if content is None:
        return _NEW.format(escape(keyword)).encode()
    places = _find_places(content)
    if keyword in (nfc(" ".join(word.split())) for word in places.keywords):
        return content
    item = f'<rdf:li xmlns:rdf="{RDF}">{escape(keyword)}</rdf:li>'
    subject = f'<dc:subject xmlns:dc="{DC}"><rdf:Bag xmlns:rdf="{RDF}">{item}</rdf:Bag></dc:subject>'
    if places.list_end is not None:
        changed = _insert(content, places.list_end, item)
    elif places.has_subject:
        raise ValueError("its dc:subject is no list of keywords")
    elif places.description_end is not None:
        changed = _insert(content, places.description_end, subject)
    elif places.root_end is not None:
        words = f'<rdf:Description xmlns:rdf="{RDF}" rdf:about="">{subject}</rdf:Description>'
        changed = _insert(content, places.root_end, words)
    else:
        raise ValueError("it is not XMP: it has no rdf:RDF")
    if keyword not in _find_places(changed).keywords:
        raise ValueError("its keywords cannot be added to")
    return changed


def keywords(content: bytes) -> list[str]:
    """Return the keywords of a sidecar; ValueError if it is none."""
    return _find_places(content).keywords


@dataclass(frozen=True)
class _End:
    """Where an element ends: the place of its end tag, or the one behind it if it is an empty element, `<a/>`."""

    place: int
    empty: bool


@dataclass
class _Places:
    """Where something can be added to a sidecar: bytes from its beginning to the ends of elements."""

    keywords: list[str] = field(default_factory=list)
    list_end: _End | None = None
    description_end: _End | None = None
    root_end: _End | None = None
    has_subject: bool = False


class _Reader:
    """Follows the elements of a sidecar."""

    def __init__(self, content: bytes) -> None:
        self.places = _Places()
        self._content = content
        self._bare = False  # whether nothing has come since the last beginning of an element
        self._open: list[str] = []
        self._text: list[str] | None = None
        self.parser = expat.ParserCreate("UTF-8", " ")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._add
        self.parser.StartDoctypeDeclHandler = _refuse
        self.parser.EntityDeclHandler = _refuse

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._open.append(name)
        self._bare = True
        if len(self._open) > DEEPEST:
            raise ValueError(f"its elements are nested more than {DEEPEST} deep")
        inside = self._inside()
        if inside == (DESCRIPTION, SUBJECT):
            self.places.has_subject = True
        if inside[:2] == (DESCRIPTION, SUBJECT) and len(inside) == 4 and name == f"{RDF} li":
            self._text = []

    def _end(self, name: str) -> None:
        inside, place = self._inside(), self.parser.CurrentByteIndex
        end = _End(place, self._bare and self._content[place - 2 : place] == b"/>")
        self._bare = False
        if inside[:2] == (DESCRIPTION, SUBJECT) and len(inside) == 4 and self._text is not None:
            self.places.keywords.append("".join(self._text))
            self._text = None
        elif inside[:2] == (DESCRIPTION, SUBJECT) and len(inside) == 3 and name in LISTS:
            self.places.list_end = end
        elif inside == (DESCRIPTION,) and self.places.description_end is None:
            self.places.description_end = end
        elif name == ROOT and self.places.root_end is None:
            self.places.root_end = end
        self._open.pop()

    def _add(self, text: str) -> None:
        self._bare = False
        if self._text is not None:
            self._text.append(text)

    def _inside(self) -> tuple[str, ...]:
        """Return the open elements inside rdf:RDF."""
        return tuple(self._open[self._open.index(ROOT) + 1 :]) if ROOT in self._open else ()


def _refuse(*_: object) -> NoReturn:
    raise ValueError("it has a document type, which no sidecar needs")


def _find_places(content: bytes) -> _Places:
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
    reader = _Reader(content)
    try:
        content.decode("utf-8")
        reader.parser.Parse(content, True)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except expat.ExpatError as error:
        raise ValueError(f"it is no XML (line {error.lineno})") from None
    return reader.places


def _insert(content: bytes, end: _End, words: str) -> bytes:
    """Insert words at the end of an element."""
    place = end.place
    if not end.empty:
        return content[:place] + words.encode() + content[place:]
    name = re.match(rb"<([^\s/>]+)", content[content.rindex(b"<", 0, place) : place])
    assert name is not None
    return content[: place - 2] + b">" + words.encode() + b"</" + name[1] + b">" + content[place:]
