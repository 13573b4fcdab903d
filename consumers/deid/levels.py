"""What becomes of an element, judged once: the rules, digest, JSON and search words of one place in a dataset.

A `Level` is one way to treat elements: where they stand (root, nested, in a hollowed or a dropped sequence),
how they are read, and in which character set. It judges each element that it has not met before and remembers
the judgement by the element's bytes; `walk` asks it. Remembered are short elements only, and no more than
`MEMO_TOTAL` bytes; what is remembered holds identifiers and stays in the process, which is a trusted one.

An element is judged by itself: nothing here looks at its neighbours. What needs more than one element
(pseudonyms, the way back, the search) is made from the `Cleaned` of the whole dataset, in `engine`.
"""

from bisect import bisect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from consumers.deid import residual
from consumers.deid.digest import content_parts, sequence_content
from consumers.deid.elements import (
    FORMS,
    IMPLICIT,
    PIXEL_TAGS,
    TEXT_VRS,
    Bytes,
    Element,
    Form,
    dictionary_vr,
    read_items,
)
from consumers.deid.jsonmodel import DEFAULT_ENCODINGS, encodings_of, entry_of, member_of, object_of, text_of
from consumers.deid.keys import ProjectKeys
from consumers.deid.model import DicomJson
from consumers.deid.profile import Action, Actions
from consumers.deid.pseudonyms import OWN
from consumers.deid.rules import clean_leaf, readable
from consumers.deid.syntaxes import Syntax
from consumers.deid.vault import is_kept, kept_member
from consumers.deid.writer import element_bytes, item_header, sequence_header

MEMO_BYTES: Final = 512  # an element; longer ones seldom come twice
MEMO_TOTAL: Final = 16 << 20  # of one SOP class, project and syntax; some 10,000 elements
_ELEMENT_COST: Final = 1200  # bytes of one remembered element beside its own, about
_LEVEL_COST: Final = 10_000  # of a level, or of a run
_CHARACTER_SET: Final = 0x00080005
_SIGN: Final = 0x00280103  # PixelRepresentation
_TURNING: Final = frozenset({_CHARACTER_SET, _SIGN})  # how the elements behind them are to be read
#: never in a run: what we write ourselves, what turns the reading, what is asked for by its tag behind the walk
_ALONE: Final = sorted({*OWN, *_TURNING, *PIXEL_TAGS})

_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})

Place = Literal["root", "nested", "hollow", "dropped"]


class Cleaned(NamedTuple):
    """One element after its judgement.

    `written` is the clean element as encoded, empty where it is removed, with the value in `bulk` where it is
    long; `content` is what it adds to the content digest behind its path, likewise with `content_bulk`. `json`
    is its member of the DICOM JSON object. `traces` and `text` are what the residual search looks into,
    `names` what it looks for. `received` is the text as received, `vault` its member of DICOM JSON where the
    way back needs it. A run of elements that were met before is one `Cleaned`, which has them in `members`
    by tag.
    """

    tag: int
    element: Element
    written: bytes = b""
    bulk: Bytes = b""
    content: bytes = b""
    content_bulk: Bytes = b""
    json: bytes = b""
    traces: Mapping[str, residual.Where] = _NOTHING
    text: str = ""
    names: frozenset[str] = frozenset()
    received: str = ""
    vault: Mapping[str, dict[str, Any]] = _NOTHING
    members: Mapping[int, "Cleaned"] = _NOTHING


class Level:
    """See the module; made by `root_level` and by each other."""

    def __init__(
        self, task: "_Task", place: Place, form: Form, encodings: tuple[str, ...], *, signed: bool
    ) -> None:
        self._task, self._place, self._encodings, self._signed = task, place, encodings, signed
        self.form = form
        self.sizes: dict[bytes, int] = {}
        self.memo: dict[bytes, Cleaned] = {}
        self.turning: dict[bytes, Cleaned] = {}
        self.last: dict[bytes, Cleaned] = {}
        self.runs: dict[bytes, tuple[bytes, Cleaned]] = {}
        self._after: dict[tuple[int, bytes], Level] = {}
        self._sequences: dict[int, tuple[Action, Level, Level]] = {}

    def judge(self, element: Element, path: bytes = b"") -> Cleaned:
        """Return what becomes of an element that has a value; `path` is where it stands, for hidden items."""
        tag, encodings, big = element.tag, self._encodings, self.form.big
        root = self._place == "root"
        content, content_bulk = content_parts(element, path, big=big, root=root)
        names = residual.names_in(element, encodings)
        received = _text(element, encodings) if root else ""
        vault = kept_member(element, encodings, big=big) if root and is_kept(tag) else _NOTHING
        action = self._action(tag) if readable(element) else "X"
        clean = clean_leaf(element, action, self._task.keys, big=big, hollow=self._place == "hollow")
        written, member, traces, text = b"", b"", _NOTHING, ""
        bulk: Bytes = b""
        if clean is not None:
            traces, text = residual.traces_of(clean, encodings)
            member = self._json(clean)
            written, bulk = element_bytes(clean, self._task.syntax)
            if len(bulk) <= MEMO_BYTES:
                written, bulk = b"".join((written, bulk)), b""
        return Cleaned(
            tag, element, written, bulk, content, content_bulk, member, traces, text, names, received, vault
        )

    def remember(self, raw: bytes, one: Cleaned, *, short: bool = False) -> Cleaned:
        """Remember a judgement by the bytes of the element, and return the one that is remembered.

        `short` says that the first eight bytes tell how long the element is.
        """
        memo = self.turning if one.tag in _TURNING else self.memo
        known = memo.get(raw)
        if known is not None or self._task.held > MEMO_TOTAL:
            return known or one
        self._task.held += 2 * len(raw) + _ELEMENT_COST
        memo[raw] = one
        if short and memo is self.memo:
            self.sizes[raw[:8]] = len(raw)
        return one

    def note(self, form: bytes, one: Cleaned) -> None:
        """Note what stood last where this tag, VR and length stand; to see in the next instance if it is steady."""
        if self._task.held <= MEMO_TOTAL:
            self._task.held += 0 if form in self.last else _ELEMENT_COST
            self.last[form] = one

    def keep_run(self, raw: bytes, run: list[Cleaned]) -> None:
        """Remember that these elements of the root stand behind one another; `raw` are their bytes."""
        if self._task.held > MEMO_TOTAL:
            return
        self._task.held += 4 * len(raw) + _LEVEL_COST
        self.runs[raw[:8]] = (
            raw,
            Cleaned(
                run[0].tag,
                run[0].element,
                written=b"".join(one.written for one in run),
                content=b"".join(one.content for one in run),
                json=b",".join([one.json for one in run if one.json]),
                traces={word: where for one in run for word, where in one.traces.items()},
                text="\n".join(one.text for one in run if one.text),
                names=frozenset().union(*(one.names for one in run)),
                vault={name: member for one in run for name, member in one.vault.items()},
                members={one.tag: one for one in run},
            ),
        )

    def after(self, one: Cleaned) -> "Level":
        """Return how the elements behind this one are read."""
        if one.tag not in _TURNING:
            return self
        name = (one.tag, bytes(one.element.value))
        level = self._after.get(name)
        if level is None:
            encodings, signed = self._encodings, self._signed
            if one.tag == _CHARACTER_SET:
                encodings = encodings_of((one.element,), encodings)
            else:
                signed = any(name[1])
            self._task.held += _LEVEL_COST
            level = self._after[name] = self._task.level(self._place, self.form, encodings, signed=signed)
        return level

    def implicit(self) -> "Level":
        """Return how the items inside UN are read (PS3.5 6.2.2)."""
        return self._task.level(self._place, IMPLICIT, self._encodings, signed=self._signed)

    def inside(self, tag: int) -> tuple["Level", "Level"]:
        """Return how the first item of a sequence is cleaned, and how the others."""
        return self._sequence(tag)[1:]

    def join(
        self, tag: int, items: list[tuple[bytes, list[Cleaned]]], raw: Bytes, *, closed: bool
    ) -> Cleaned:
        """Return what becomes of a sequence whose items (each behind its path) are cleaned; `raw` are its bytes."""
        action, first, _ = self._sequence(tag)
        cleaned = Cleaned(
            tag,
            Element(tag, "SQ", items=()),
            content=sequence_content(tag, items),
            names=frozenset().union(*(one.names for _, item in items for one in item)),
            vault=self._vault_sequence(tag, raw, closed=closed),
        )
        if action == "X":
            return cleaned
        written = [] if action == "Z" else [item for _, item in items]
        if first._place == "hollow":
            written = written[:1]
        body = b"".join(_encoded(item, self._task.syntax) for item in written)
        members = b",".join([object_of(one.json for one in item) for item in written])
        leaves = [one for item in written for one in item if one.traces or one.text]
        return cleaned._replace(
            written=sequence_header(tag, len(body), self._task.syntax) + body,
            json=b'"%08X":{"vr":"SQ","Value":[%b]}' % (tag, members)
            if written
            else b'"%08X":{"vr":"SQ"}' % tag,
            traces={word: where for one in leaves for word, where in one.traces.items()},
            text="\n".join(one.text for one in leaves if one.text),
        )

    def _at(self, place: Place) -> "Level":
        return self._task.level(place, self.form, self._encodings, signed=self._signed)

    def _action(self, tag: int) -> Action:
        if self._place == "dropped":
            return "X"
        return self._task.actions.of(tag, nested=self._place != "root")

    def _sequence(self, tag: int) -> tuple[Action, "Level", "Level"]:
        """Return what is done to a sequence, and how its first item and the others are cleaned."""
        known = self._sequences.get(tag)
        if known is None:
            action = self._action(tag) if readable(Element(tag, "SQ", items=())) else "X"
            first, rest = self._places(action)
            known = self._sequences[tag] = (action, self._at(first), self._at(rest))
            self._task.held += _ELEMENT_COST
        return known

    def _places(self, action: Action) -> tuple[Place, Place]:
        match action:
            case "X" | "Z":
                return "dropped", "dropped"
            case "D":
                return "hollow", "dropped"
            case "K" if self._place == "hollow":
                return "hollow", "dropped"
            case _:
                return "nested", "nested"

    def _vault_sequence(self, tag: int, raw: Bytes, *, closed: bool) -> DicomJson:
        if self._place != "root" or not is_kept(tag):
            return {}
        items = read_items(raw, self.form, closed=closed)
        return kept_member(Element(tag, "SQ", items=items), self._encodings, big=self.form.big)

    def _json(self, clean: Element) -> bytes:
        entry = entry_of(clean, big=self.form.big, signed=self._signed, encodings=self._encodings)
        return b"" if entry is None else member_of(clean.tag, entry)


class _Task:
    """What all instances of one SOP class, project and transfer syntax share: rules, keys, memory."""

    def __init__(self, actions: Actions, keys: ProjectKeys, syntax: Syntax) -> None:
        self.actions, self.keys, self.syntax = actions, keys, syntax
        self.held = 0
        self._levels: dict[tuple[Place, Form, tuple[str, ...], bool], Level] = {}

    def level(self, place: Place, form: Form, encodings: tuple[str, ...], *, signed: bool) -> Level:
        """Return the level of these properties."""
        name = (place, form, encodings, signed)
        found = self._levels.get(name)
        if found is None:
            self.held += _LEVEL_COST
            found = self._levels[name] = Level(self, place, form, encodings, signed=signed)
        return found

    def root(self) -> Level:
        """Return the level of a root, as an instance begins; the memory begins anew where it is full."""
        if self.held > MEMO_TOTAL:
            self._levels.clear()
            self.held = 0
        form = FORMS[self.syntax.explicit, self.syntax.big]
        return self.level("root", form, DEFAULT_ENCODINGS, signed=False)


def root_level(actions: Actions, keys: ProjectKeys, syntax: Syntax) -> Level:
    """Return how the root of a dataset is cleaned, with what was learned from earlier ones."""
    return _task(actions, keys, syntax).root()


def forget() -> None:
    """Forget what was learned: to measure, and to test that it changes no result."""
    _task.cache_clear()


@lru_cache(maxsize=8)  # each may hold MEMO_TOTAL
def _task(actions: Actions, keys: ProjectKeys, syntax: Syntax) -> _Task:
    return _Task(actions, keys, syntax)


def joinable(one: Cleaned, following: Cleaned) -> bool:
    """Tell whether two elements may be in one run: in order, short, and nothing stands alone between."""
    if one.bulk or one.content_bulk or following.bulk or following.content_bulk:
        return False
    between = bisect(_ALONE, one.tag) != bisect(_ALONE, following.tag)
    return one.tag < following.tag and one.tag not in _ALONE and not between


def own(element: Element, syntax: Syntax) -> Cleaned:
    """Return an element of our own making, as it is written and said."""
    entry = entry_of(element, big=syntax.big, encodings=DEFAULT_ENCODINGS)
    member = b"" if entry is None else member_of(element.tag, entry)
    return Cleaned(element.tag, element, written=b"".join(element_bytes(element, syntax)), json=member)


def _encoded(item: Iterable[Cleaned], syntax: Syntax) -> bytes:
    body = b"".join(part for one in item for part in (one.written, one.bulk))
    return item_header(len(body), syntax) + body


def _text(element: Element, encodings: tuple[str, ...]) -> str:
    # A sender may have written UN: the dictionary knows what kind of text it is.
    vr = dictionary_vr(element.tag) if element.vr == "UN" else element.vr
    if vr not in TEXT_VRS and len(element.value) > MEMO_BYTES:
        return ""
    return text_of(element, encodings, vr).strip("\x00 ")
