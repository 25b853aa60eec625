"""`sort --tag`: labels as keywords of XMP sidecars, merged into those that are there, and taken back."""

from __future__ import annotations

import base64
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sort_trees import snapshot
from test_sort import plan_of, write

import sharpzo_mlx as sz
from sharpzo_mlx.sorting.xmp import add_keyword, keywords

RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'
BODIES = [
    '<rdf:Description rdf:about="" xmlns:u="u" u:Rating="3"/>',
    '<rdf:Description rdf:about="">\n <!-- kept -->\n</rdf:Description><rdf:Description rdf:about=""/>',
    "",
    f"<rdf:Description {DC}><dc:subject><rdf:Bag/></dc:subject></rdf:Description>",
    f"<rdf:Description {DC}><dc:subject>\n<rdf:Bag><rdf:li>a&amp;b</rdf:li></rdf:Bag></dc:subject></rdf:Description>",
    f"<rdf:Description {DC}><dc:subject><rdf:Alt><rdf:li>x</rdf:li></rdf:Alt></dc:subject></rdf:Description>",
    '<rdf:Description a="&gt;/>"/>',
    "<rdf:Description>/></rdf:Description>",
    "<rdf:Description><b/></rdf:Description>",
    f'<q:Description xmlns:q="http://www.w3.org/1999/02/22-rdf-syntax-ns#" {DC}><dc:title>t</dc:title></q:Description>',
]


def document(body: str) -> bytes:
    """Return a sidecar with a body."""
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {RDF}>{body}</rdf:RDF></x:xmpmeta>\n'.encode()


@pytest.mark.parametrize("body", BODIES)
def test_a_keyword_is_added_once_and_the_rest_stays(body: str) -> None:
    content = document(body)
    before = keywords(content)
    tagged = add_keyword(content, 'cat & <"dog">')
    assert keywords(tagged) == [*before, 'cat & <"dog">']
    assert add_keyword(tagged, 'cat & <"dog">') == tagged
    assert keywords(add_keyword(tagged, "ü")) == [*before, 'cat & <"dog">', "ü"]
    old = [element for element in ElementTree.fromstring(content).iter() if not element.tag.endswith("Bag")]
    new = [(element.tag, element.attrib) for element in ElementTree.fromstring(tagged).iter()]
    assert all((element.tag, element.attrib) in new for element in old)
    assert (b"<!-- kept -->" in tagged) == ("kept" in body)


def test_a_new_sidecar_holds_the_keyword_alone() -> None:
    assert keywords(add_keyword(None, "barn\nowl \x00")) == ["barn owl"]
    assert keywords(add_keyword(None, "e\u0301")) == ["é"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        (b"<a/>", "no rdf:RDF"),
        (b"", "no XML"),
        (b"nothing", "no XML"),
        ("<a/>".encode("utf-16"), "not UTF-8"),
        (document(f"<rdf:Description {DC}><dc:subject>cat</dc:subject></rdf:Description>"), "no list of keywords"),
        (b"<a>" * 200 + b"</a>" * 200, "nested more than"),
        (b"<a>" + b" " * (17 << 20) + b"</a>", "larger than"),
    ],
)
def test_what_cannot_be_added_to_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        add_keyword(content, "cat")


def test_labels_are_written_beside_the_images_and_taken_back(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", a__jpg="1", b__jpg="2", c__jpg="3", c__png="4", d__jpg="5", x___e__jpg="6")
    for name in ("b.xmp", "c.xmp", "d.jpg.xmp"):
        (photos / name).write_bytes(document(BODIES[0]))
    (photos / "x" / "e.jpg.xmp").write_text("damaged")
    before = snapshot(photos)
    labels: dict[str, str | None] = {"a.jpg": "cat", "b.jpg": "dog", "c.jpg": "cat", "d.jpg": "cat", "x/e.jpg": "cat"}
    plan = plan_of(photos, labels | {"c.png": None}, None, "tag")
    assert plan.survey().unlabelled == 1
    done = plan.apply()
    assert (done.done, [one.path for one in done.failures]) == (4, ["x/e.jpg"])
    after = {path: sidecar.read_bytes() for path in labels for sidecar in [photos / f"{path}.xmp"] if sidecar.exists()}
    assert keywords(after["a.jpg"]) == keywords(after["c.jpg"]) == keywords(after["d.jpg"]) == ["cat"]
    assert keywords((photos / "b.xmp").read_bytes()) == ["dog"]
    assert keywords((photos / "c.xmp").read_bytes()) == []  # two images are called c
    assert b'u:Rating="3"' in after["d.jpg"]
    assert plan.apply().done == 0
    assert done.journal is not None
    (photos / "a.jpg.xmp").write_bytes(add_keyword(after["a.jpg"], "mine"))
    assert [(Path(one.path).name, one.reason) for one in sz.undo_sort(done.journal).kept] == [
        ("a.jpg.xmp", "was changed since")
    ]
    (photos / "a.jpg.xmp").unlink()
    assert snapshot(photos) == before


def test_sidecars_named_by_stem_and_those_that_are_links(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", a__jpg="1", b__jpg="2")
    (tmp_path / "elsewhere.xmp").write_bytes(document(""))
    (photos / "b.xmp").symlink_to(tmp_path / "elsewhere.xmp")
    order = plan_of(photos, {"a.jpg": "cat", "b.jpg": "cat"}, None, "tag").order
    import dataclasses

    done = sz.SortPlan(dataclasses.replace(order, xmp_by_stem=True)).apply()
    assert keywords((photos / "a.xmp").read_bytes()) == ["cat"]
    assert "is a link" in done.failures[0].reason
    assert (tmp_path / "elsewhere.xmp").read_bytes() == document("")


def test_the_journal_keeps_the_old_sidecar(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", a__jpg="1")
    (photos / "a.xmp").write_bytes(document(BODIES[1]))
    done = plan_of(photos, {"a.jpg": "cat"}, None, "tag").apply()
    assert done.journal is not None
    assert base64.b64encode(document(BODIES[1])).decode() in Path(done.journal).read_text()
