"""What an audit says is said in every form, and names from outside stay text."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stpp.audit.duplicates import Pair, suspects
from stpp.audit.project import ABSENT, CHANGED, VERIFIED
from stpp.audit.render import Audit, as_json, look_alikes, page, text
from stpp.audit.trace import Link, Step
from stpp.run.lineage import Content, Execution

EVIL = "<script>alert(1)</script>'\"&\x1b[31m\n"


def audit_of(name: str, verdict: str = VERIFIED, problems: tuple[str, ...] = ()) -> Audit:
    dep = Link(Content(name, "d" * 32), verdict, "in place", problems=list(problems))
    made = Execution(name, name, (dep.content,), {name: {name: name}}, (Content(name, "m" * 32),), name, name)
    out = Link(made.outs[0], VERIFIED, "in place", about=name)
    step = Step(made, inputs=[dep], outs=[out], code=[dep])
    return Audit(name, name, Link(made.outs[0], VERIFIED, "in place", made=step), notes=[name], more=[])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_names_from_outside_are_text_in_the_page_and_nothing_is_fetched(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    one = audit_of(EVIL, CHANGED, (EVIL,))
    one.suspects = [(Pair(EVIL, EVIL, EVIL, EVIL, 0.5), tmp_path / "a.png", tmp_path / "a.png")]
    tags = Tags()
    tags.feed(page([one]))
    plain = Tags()
    harmless = audit_of("name", CHANGED, ("problem",))
    harmless.suspects = [(Pair("a", "val", "b", "labeled", 0.5), tmp_path / "a.png", tmp_path / "a.png")]
    plain.feed(page([harmless]))
    assert tags.found == plain.found, "no name adds a tag or an attribute"
    assert not {"script", "iframe", "object", "link", "form"} & {tag for tag, _ in tags.found}
    policy = next(a["content"] for tag, a in tags.found if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in str(policy)
    assert all(str(a.get("src", "data:")).startswith("data:") for _, a in tags.found)


def test_names_from_outside_write_only_letters_to_the_terminal() -> None:
    shown = text(audit_of(EVIL, CHANGED, (EVIL,)))
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert shown.count("\n") == text(audit_of("name", CHANGED, ("problem",))).count("\n")


@pytest.mark.parametrize(
    ("verdict", "problems", "said"),
    [
        (VERIFIED, (), "no contradictions"),
        (ABSENT, (), "no contradictions; 1 files are not here, only their hashes are known"),
        (CHANGED, ("it was changed",), "1 contradiction(s)"),
    ],
)
def test_every_form_has_the_same_verdict(verdict: str, problems: tuple[str, ...], said: str) -> None:
    one = audit_of("data/toy", verdict, problems)
    assert one.verdict == as_json(one)["verdict"] == said
    assert text(one).splitlines()[0].endswith(said)
    assert said.capitalize() in page([one])
    for problem in problems:
        assert problem in as_json(one)["problems"]
        assert problem in text(one)
        assert problem in page([one])
    assert bool(re.search(r"<p class='verdict bad'>", page([one]))) == bool(problems)


def test_a_suspect_is_part_of_the_verdict_and_contradicts_nothing(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    one = audit_of("data/toy")
    one.suspects = [
        (Pair("a", "val", name, "labeled", 0.5), tmp_path / "a.png", tmp_path / "a.png") for name in ("b", "c")
    ]
    assert one.verdict == "no contradictions; 1 held-out images look like training images"
    assert one.problems == []
    assert "a (val) and c (labeled)" in look_alikes([one]) and "<p class='verdict'>" in page([one])


def test_hundreds_of_look_alikes_are_said_once_for_all_models_with_their_number(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    audits = [audit_of("data/toy") for _ in range(5)]
    for one in audits:
        pairs = [Pair(f"{at % 20}", "val", f"t{at}", "labeled", 0.5) for at in range(300)]
        one.suspects = [(pair, tmp_path / "a.png", tmp_path / "a.png") for pair in pairs]
    lines = "".join([*map(text, audits), look_alikes(audits)]).splitlines()
    assert sum("labeled)" in line for line in lines) == 3
    assert any("300 pairs, 20 held out" in line for line in lines)
    assert "... and 297 more; `stpp audit --out FOLDER`" in lines[-1]
    assert page(audits).count("t299") > 0
    assert look_alikes([audit_of("data/toy")]) == ""


@pytest.mark.parametrize("change", ["none", "smaller", "larger", "jpeg", "brighter", "mirrored"])
def test_a_copy_is_found_whatever_was_done_to_it_and_others_are_not(tmp_path: Path, change: str) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 230, (12, 6, 6, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one).resize((96, 72), Image.Resampling.BICUBIC) for one in coarse]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    copy, name = pictures[0], "copy.png"
    if change in ("smaller", "larger"):
        copy = copy.resize((50, 38) if change == "smaller" else (180, 140), Image.Resampling.BICUBIC)
    if change == "brighter":
        copy = Image.fromarray(np.clip(np.asarray(pictures[0]).astype(int) + 20, 0, 255).astype(np.uint8))
    if change == "mirrored":
        copy = copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if change == "jpeg":
        name = "copy.jpg"
    copy.save(tmp_path / name)
    paths = {str(i): tmp_path / f"{i}.png" for i in range(12)}
    images = {
        "val": {i: path for i, path in paths.items() if int(i) < 4},
        "labeled": {"copy": tmp_path / name, "gone": tmp_path / "gone.png"},
        "unlabeled": {i: path for i, path in paths.items() if int(i) >= 4},
    }
    assert [(p.held_out, p.trained_on, p.trained_on_set) for p in suspects(images)] == [("0", "copy", "labeled")]


def test_no_images_are_no_suspects() -> None:
    assert suspects({}) == suspects({"val": {}, "labeled": {}}) == []
