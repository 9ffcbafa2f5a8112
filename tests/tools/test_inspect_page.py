"""The page of `mome inspect --html`: whole HTML that needs nothing else, no text as markup, the store's numbers."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mome_store.inspection import inspect_store
from mome_store.runtime.trace import TraceWriter
from mome_store.store import ExpertSchema, ExpertStore, Memory, statistics
from mome_tools.inspect_page import render_page

from .browser import Browser, chromium
from .conftest import Mome

SCHEMA = ExpertSchema({"model.layers.0.mlp.down_proj": (16, 8), "model.layers.1.mlp.down_proj": (16, 8)}, rank=2)
NASTY = "<script>document.title='taken'</script><img src=x onerror=alert(1)> & \"quoted\" 'single' \x00\x1b שלום"
VOID = {"meta", "input", "br"}
SECTIONS = ["shards", "sizes", "age", "near", "norms", "usage", "memories", "damage", "store"]


class Page(HTMLParser):
    """The elements of a page; fails where a tag is not closed or closes another one."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((self._open[-1] if self._open else "", data))

    @property
    def text(self) -> str:
        return " ".join(" ".join(data for tag, data in self.words if tag not in ("script", "style")).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def add(txn: object, rng: np.random.Generator, keys: np.ndarray, memory: Memory | None) -> None:
    expert = {name: (rng.standard_normal((2, 16)), rng.standard_normal((8, 2))) for name in SCHEMA.modules}
    txn.add_group([expert], keys, memory)  # type: ignore[attr-defined]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of forty facts in four commits, some removed, with two that contradict each other and nasty texts."""
    rng = np.random.default_rng(0)
    path = tmp_path / "my <store>"
    with ExpertStore.create(path, SCHEMA, 6, base_model={"name": "<base>"}, rows_per_shard=16) as opened:
        for commit in range(4):
            with opened.transaction() as txn:
                for i in range(10):
                    text = NASTY if i == 0 else f"What is {commit}-{i}?"
                    memory = Memory(text, f"</td>{commit}-{i}", (f"also {i}",), status="new" if i == 1 else "memorized")
                    key = rng.standard_normal(6)
                    add(txn, rng, (key + 0.02 * rng.standard_normal((2, 6))).astype(np.float32), memory)
        with opened.transaction() as txn:
            same = rng.standard_normal((1, 6)).astype(np.float32)
            add(txn, rng, same, Memory("Who rules?", "Ada"))
            add(txn, rng, same, Memory("Who rules now?", "Bo"))
            for group in (3, 4, 5, 20):
                txn.remove_group(group)
    return path


def page_of(path: Path, **settings: object) -> Page:
    return Page(render_page(inspect_store(path, **settings)))  # type: ignore[arg-type]


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(store: Path) -> None:
    content = render_page(inspect_store(store))
    page = Page(content)
    assert content.startswith("<!DOCTYPE html>")
    assert [attributes["id"] for attributes in page.all("section")] == SECTIONS
    for _, attributes in page.elements:
        assert not {"src", "style", "onclick", "srcset", "action"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"https?://|@import|url\(", content)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} <= {f"#{name}" for name in ids}


def test_the_policy_lets_only_the_page_s_own_script_and_style_be(store: Path) -> None:
    content = render_page(inspect_store(store))
    (policy,) = (each["content"] for each in Page(content).all("meta") if "http-equiv" in each)
    assert policy is not None and "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("script", "style"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", content, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_no_text_of_a_memory_becomes_markup(store: Path) -> None:
    content = render_page(inspect_store(store))
    page = Page(content)
    assert len(page.all("script")) == 1 and page.all("img") == []
    shown = NASTY.replace("\x00", "\N{REPLACEMENT CHARACTER}").replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert shown in page.text
    assert "my <store>" in page.text and "<base>" in page.text
    assert "\x00" not in content and "\x1b" not in content


def test_what_can_t_be_seen_is_named(store: Path) -> None:
    page = page_of(store)
    assert page.all("html") == [{"lang": "en"}]
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in page.all("svg"))
    assert all(head["scope"] == "col" for head in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert {label["for"] for label in page.all("label")} == {field["id"] for field in page.all("input")}


def test_the_numbers_are_the_store_s(store: Path) -> None:
    text = page_of(store).text
    found = statistics(store)
    assert (found.groups, found.experts_dead) == (38, 4)
    assert f"Groups {found.groups} {found.keys} keys" in text
    assert f"Experts {found.experts_live} {found.experts_dead} dead" in text
    assert f"Shards {found.shards} files" in text
    assert "38 rows live, 4 dead" in text
    assert "Of 42 groups that were ever added, 38 are live (90.5 %)" in text
    assert "38 memories, newest first. By status: memorized 34, new 4." in text
    assert "groups 41 and 42 (1.000)" in text


def test_what_there_is_to_do_is_said(store: Path, tmp_path: Path) -> None:
    assert re.search("Near keys : .{1,9} pairs? of groups ha(s|ve) different answers", page_of(store).text)
    rng = np.random.default_rng(0)
    with ExpertStore.create(tmp_path / "many", SCHEMA, 6) as opened:
        for _ in range(8):
            with opened.transaction() as txn:
                add(txn, rng, rng.standard_normal((1, 6)).astype(np.float32), None)
    assert "Compaction is due: 16 shards could be 2" in page_of(tmp_path / "many").text
    with ExpertStore.create(tmp_path / "fine", SCHEMA, 6) as opened, opened.transaction() as txn:
        add(txn, rng, np.eye(6, dtype=np.float32)[:1], Memory("q", "a"))
    assert "Nothing needs to be done" in page_of(tmp_path / "fine").text


def test_a_huge_store_s_page_stays_small_and_says_what_it_leaves_out(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mome_store.inspection.inspection.MOST_MEMORIES", 50)
    schema = ExpertSchema({f"layers.{i}.down": (8, 8) for i in range(80)}, rank=1)
    count, rng = 5000, np.random.default_rng(0)
    a, b = rng.standard_normal((count, 1, 8)), rng.standard_normal((count, 8, 1))
    with ExpertStore.create(memory_path / "s", schema, 4, rows_per_shard=4) as opened, opened.transaction() as txn:
        weights = dict.fromkeys(schema.modules, (a, b))
        memories = [Memory("q" * 100_000 if i == count - 1 else "q", "a") for i in range(count)]
        txn.add_groups(weights, rng.standard_normal((count, 1, 4)).astype(np.float32), memories)
    content = render_page(inspect_store(memory_path / "s"))
    text = Page(content).text
    assert len(content) < 2_000_000
    assert "1,250 files of up to 4 rows" in text and "Each strip is 3 files" in text
    assert "The newest 50 of 5,000 memories" in text and "(100,000 characters)" in text
    assert "1,024 of 5,000 experts, drawn at random" in text and "64 of 80 modules" in text
    assert content.count('class="strip"') < 1250


def test_damage_is_on_top_and_marked_on_the_map(store: Path) -> None:
    shutil.rmtree(store / "experts" / "c" / "1")
    file = store / "experts" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    page = page_of(store, deep=True)
    assert next(each["id"] for each in page.all("section")) == "damage"
    assert "The store is damaged: 2 findings" in page.text and "the shard is missing" in page.text
    marked = [each for each in page.all("path") if each.get("class") == "damaged"]
    assert [each["d"] for each in marked] == ["M0 0h1v1h-1z", "M0 0h10v1h-10z"]  # a row, and all that a file held
    assert "experts/c/1/0" in page.text


def test_the_page_of_a_store_without_a_catalogue_says_what_the_files_tell(store: Path) -> None:
    (store / "catalog.sqlite").unlink()
    page = page_of(store)
    assert "The catalogue can't be read" in page.text and "the catalogue is missing" in page.text
    assert [each["id"] for each in page.all("section")] == ["damage", "sizes", "store"]
    assert "6 float32" in page.text


def test_ages_are_told_from_the_moment_the_page_is_made(store: Path) -> None:
    inspection = inspect_store(store)
    assert inspection.contents is not None
    made = datetime.fromtimestamp(inspection.contents.time_us / 1e6 + 3 * 86400 + 60, UTC)
    assert "3 days ago" in render_page(inspection, made)


def test_the_command_writes_the_page_and_answers_as_without(mome: Mome, store: Path, tmp_path: Path) -> None:
    with ExpertStore.open(store) as opened, opened.snapshot() as snapshot:
        expert = snapshot.group(2).expert_ids
    with TraceWriter(tmp_path / "trace", SCHEMA.record_bytes) as trace:
        for _ in range(7):
            trace.append([expert])
    out = tmp_path / "page.html"
    plain = mome("inspect", store, "--json")
    ran = mome("inspect", store, "--html", out, "--trace", tmp_path / "trace", "--deep", "--json")
    assert ran.code == 0 and ran.json == plain.json and ran.err == ""
    text = Page(out.read_text(encoding="utf-8")).text
    assert "1 of 38 groups were used, 37 never" in text and "every record and key checked" in text
    assert [file.name for file in tmp_path.iterdir() if "tmp" in file.name] == []
    assert str(out) in mome("inspect", store, "--html", out).out


def test_the_command_makes_the_page_of_a_damaged_store_and_fails(mome: Mome, store: Path, tmp_path: Path) -> None:
    shutil.rmtree(store / "experts" / "c" / "1")
    out = tmp_path / "page.html"
    ran = mome("inspect", store, "--html", out, "--json")
    assert ran.code == 1 and ran.json["groups"] == 38 and "findings: 1" in ran.err
    assert "the shard is missing" in out.read_text(encoding="utf-8")
    connection = sqlite3.connect(store / "catalog.sqlite")
    connection.execute("DELETE FROM commits")
    connection.commit()
    connection.close()
    ran = mome("inspect", store, "--html", out, "--json")
    assert ran.code == 1 and ran.out == "" and "damaged" in ran.err
    assert "The catalogue can't be read" in Page(out.read_text(encoding="utf-8")).text


def test_trace_and_deep_without_a_page_are_wrong_usage(mome: Mome, store: Path) -> None:
    assert mome("inspect", store, "--deep").code == 2
    assert mome("inspect", store, "--trace", "x").code == 2


def test_a_page_that_can_t_be_written_is_one_line_on_stderr(mome: Mome, store: Path, tmp_path: Path) -> None:
    ran = mome("inspect", store, "--html", tmp_path / "missing" / "page.html")
    assert ran.code == 1 and ran.out == "" and len(ran.err.splitlines()) == 1
    assert mome("inspect", store, "--html", tmp_path).code == 1
    assert mome("inspect", store, "--html", tmp_path / "p", "--trace", tmp_path / "none").code == 1


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory where the system has such: thousands of files would wait for a disk otherwise."""
    shared = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("no chromium here")
    with Browser(program) as started:
        yield started


@pytest.fixture
def drawn(store: Path) -> Iterator[Path]:
    """The page of a store with damage, and without."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "whole.html").write_text(render_page(inspect_store(store)), encoding="utf-8")
        shutil.rmtree(store / "keys" / "c" / "0")
        (Path(folder) / "damaged.html").write_text(render_page(inspect_store(store)), encoding="utf-8")
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["whole.html", "damaged.html"])
def test_a_browser_shows_it_without_errors_network_or_overflow(
    browser: Browser, drawn: Path, name: str, width: int, dark: bool
) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.show(drawn / name, width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") == width == browser.run("innerWidth")
    # nothing is cut off either, but for what scrolls in a box of its own
    assert (
        browser.run(
            "[...document.querySelectorAll('h1,h2,h3,p,li,dd,figure,svg,.scroll')]"
            ".filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"
        )
        == []
    )
    sections = browser.run("[...document.querySelectorAll('section')].map(e => e.id)")
    assert sections == ([*SECTIONS] if name == "whole.html" else ["damage", *(s for s in SECTIONS if s != "damage")])
    assert browser.run("[...document.querySelectorAll('section')].every(e => e.offsetHeight > 50)")
    assert browser.run("[...document.querySelectorAll('main svg')].filter(e => e.checkVisibility()).length") > 8
    assert browser.run("document.title") == "my <store> · mome inspect"
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == dark
    assert browser.requests == [(drawn / name).as_uri()]
    assert browser.problems == []


@pytest.mark.slow
def test_the_search_shows_the_memories_that_have_all_words(browser: Browser, drawn: Path) -> None:
    browser.show(drawn / "whole.html", 390)
    shown = "[...document.querySelectorAll('#memory-rows tbody tr')].filter(e => e.checkVisibility()).length"
    assert browser.run(shown) == 38

    def search(words: str) -> str:
        field = "document.getElementById('find')"
        browser.run(f"{field}.value = {words!r}; {field}.dispatchEvent(new Event('input'))")
        return str(browser.run("document.getElementById('found').textContent"))

    assert search("RULES now") == "1 of 38 shown" and browser.run(shown) == 1
    assert search("also 7") == "4 of 38 shown" and browser.run(shown) == 4
    assert search("nothing like it") == "0 of 38 shown" and browser.run(shown) == 0
    assert search("") == "" and browser.run(shown) == 38


@pytest.mark.slow
def test_it_prints(browser: Browser, drawn: Path, tmp_path: Path) -> None:
    browser.show(drawn / "whole.html", 1280)
    browser.print(tmp_path / "page.pdf")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 20


def test_groups_of_one_key_are_not_said_to_be_well_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with ExpertStore.create(tmp_path / "s", SCHEMA, 6) as opened, opened.transaction() as txn:
        for _ in range(3):
            add(txn, rng, rng.standard_normal((1, 6)).astype(np.float32), None)
    assert "No group has a second key" in page_of(tmp_path / "s").text
