"""What becomes of an element, judged once: the rules, digest, JSON and search words of one place in a dataset.

A `Level` is one way to treat elements: where they stand (root, nested, in a hollowed or a dropped sequence),
how they are read, and in which character set. It judges each element that it has not met before and remembers
the judgement by the element's bytes; `walk` asks it. Remembered are short elements only, and no more than
`MEMO_TOTAL` bytes; what is remembered holds identifiers and stays in the process, which is a trusted one.

An element is judged by itself: nothing here looks at its neighbours, but for the private creator in front of a
private element and the concept of a content item. What a judgement owes to the patient (a moved date) is not
remembered. What needs more than one element (pseudonyms, the way back, the search) is made from the `Cleaned`
of the whole dataset, in `engine`.
"""

from bisect import bisect
from functools import lru_cache
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from consumers.deid import residual
from consumers.deid.cleaned import NOTHING, Cleaned
from consumers.deid.cleaning import Manner, clean_value
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
from consumers.deid.jsonmodel import (
    DEFAULT_ENCODINGS,
    encodings_of,
    entry_of,
    member_of,
    plain_text,
    text_of,
)
from consumers.deid.keys import ProjectKeys
from consumers.deid.model import DicomJson
from consumers.deid.private import Blocks, SafeTable, is_creator, reserved
from consumers.deid.profile import Action, Actions
from consumers.deid.pseudonyms import OWN
from consumers.deid.rules import as_known, clean_leaf, readable
from consumers.deid.sequences import Kept, Shell, kept_of, shell_of
from consumers.deid.structured import TEXT_VALUE, item_action
from consumers.deid.syntaxes import Syntax
from consumers.deid.vault import is_kept, kept_member
from consumers.deid.writer import element_bytes

MEMO_BYTES: Final = 512  # an element; longer ones seldom come twice
MEMO_SEQUENCE: Final = 8192  # a sequence; longer ones are walked each time
MEMO_TOTAL: Final = 16 << 20  # of one SOP class, project and syntax; some 10,000 elements
_ELEMENT_COST: Final = 1200  # bytes of one remembered element beside its own, about
_LEVEL_COST: Final = 10_000  # of a level, or of a run
_CHARACTER_SET: Final = 0x00080005
_SIGN: Final = 0x00280103  # PixelRepresentation
_TURNING: Final = frozenset({_CHARACTER_SET, _SIGN})  # how the elements behind them are to be read
#: never in a run: what we write ourselves, what turns the reading, what is asked for by its tag behind the walk
#: (and private creators, where they turn the reading)
_ALONE: Final = sorted({*OWN, *_TURNING, *PIXEL_TAGS})
_ALONE_TAGS: Final = frozenset(_ALONE)

_NO_NAMES: Final[frozenset[str]] = frozenset()
_NO_TAGS: Final[frozenset[int]] = frozenset()

Place = Literal["root", "nested", "hollow", "dropped"]


class Met(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A nested sequence as it stood last where this tag, VR and length stand: its bytes, what becomes of it, how many
    elements are in it, and how deep it goes."""

    raw: bytes
    one: Cleaned
    elements: int
    deep: int


class Inside(msgspec.Struct, frozen=True, eq=False):
    """What is done to a sequence of one tag, and said of it, and how its first item and the others are cleaned."""

    tag: int
    action: Action
    first: "Level"
    rest: "Level"
    did: bytes
    turns: bool
    shell: Shell


class Level:
    """See the module; made by `root_level` and by each other."""

    def __init__(
        self,
        task: "_Task",
        place: Place,
        form: Form,
        encodings: tuple[str, ...],
        *,
        signed: bool,
        blocks: Blocks,
    ) -> None:
        self._task, self._place, self._encodings, self._signed = task, place, encodings, signed
        self._blocks = blocks
        self.form = form
        #: of the root: by how many days the dates of the last patient were moved; None where none are
        self.days = 0 if "modified_dates" in task.actions.profile.options else None
        self.sizes: dict[bytes, int] = {}
        self.memo: dict[bytes, Cleaned] = {}
        self.turning: dict[bytes, Cleaned] = {}
        self.last: dict[bytes, Cleaned] = {}
        self.runs: dict[bytes, tuple[bytes, Cleaned]] = {}
        self.met: dict[bytes, Met] = {}
        self._after: dict[tuple[int, bytes], Level] = {}
        self._sequences: dict[int, Inside] = {}

    def judge(self, element: Element, days: int | None = None, raw: bytes = b"") -> Cleaned:
        """Return what becomes of an element that has a value; by `days` its patient's dates are moved.

        `raw` is the element as received, where it is written as it came if nothing is done to it.
        """
        tag, encodings, big = element.tag, self._encodings, self.form.big
        root = self._place == "root"
        content, content_bulk, behind = content_parts(element, big=big, root=root)
        names = _NO_NAMES if tag in self._task.open_uids else residual.names_in(element, encodings)
        received = _text(element, encodings) if root else ""
        vault = kept_member(element, encodings, big=big) if root and is_kept(tag) else NOTHING
        clean, did, personal = self._judged(element, days)
        written, member, traces, text = b"", b"", NOTHING, ""
        bulk: Bytes = b""
        if clean is not None:
            traces, text = residual.traces_of(clean, encodings)
            member = self._json(clean)
            written, bulk = (
                (raw, b"") if raw and clean is element else element_bytes(clean, self._task.syntax)
            )
            if len(bulk) <= MEMO_BYTES:
                written, bulk = b"".join((written, bulk)), b""
        return Cleaned(
            tag, element, written, bulk, content, content_bulk, member, traces, text, names, received, vault,
            did,
            personal,
            behind,
            self._turns(tag),
        )  # fmt: skip

    def remember(self, raw: bytes, one: Cleaned, *, short: bool = False) -> Cleaned:
        """Remember a judgement by the bytes of the element, and return the one that is remembered.

        `short` says that the first eight bytes tell how long the element is.
        """
        memo = self.turning if one.turns else self.memo
        known = memo.get(raw)
        if known is not None or one.personal or self._task.held > MEMO_TOTAL:
            return known or one
        self._task.held += 2 * len(raw) + _ELEMENT_COST
        memo[raw] = one
        if short and memo is self.memo:
            self.sizes[raw[:8]] = len(raw)
        return one

    def meet(self, form: bytes, met: Met) -> None:
        """Remember a nested sequence in the place of the one before: those of the next frame are often the same."""
        if not met.one.personal and (form in self.met or self._task.held <= MEMO_TOTAL):
            self._task.held += 0 if form in self.met else 4 * MEMO_SEQUENCE
            self.met[form] = met

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
                content=b"".join(part for one in run for part in (one.content, *one.behind)),
                json=b",".join([one.json for one in run if one.json]),
                traces={word: where for one in run for word, where in one.traces.items()},
                text="\n".join(one.text for one in run if one.text),
                names=frozenset().union(*(one.names for one in run)),
                vault={name: member for one in run for name, member in one.vault.items()},
                did=b",".join([one.did for one in run if one.did]),
                members={one.tag: one for one in run},
            ),
        )

    def after(self, one: Cleaned) -> "Level":
        """Return how the elements behind this one are read."""
        if not one.turns:
            return self
        name = (one.tag, bytes(one.element.value))
        level = self._after.get(name)
        if level is None:
            encodings, signed, blocks = self._encodings, self._signed, self._blocks
            if one.tag == _CHARACTER_SET:
                encodings = encodings_of((one.element,), encodings)
            elif one.tag == _SIGN:
                signed = any(name[1])
            else:
                blocks = reserved(blocks, one.tag, plain_text(one.element.value).strip())
            self._task.held += _LEVEL_COST
            level = self._task.level(self._place, self.form, encodings, signed=signed, blocks=blocks)
            self._after[name] = level
        return level

    def joins(self, one: Cleaned, following: Cleaned) -> bool:
        """Tell whether two elements may be in one run: in order, short, and nothing stands alone between."""
        if one.bulk or one.content_bulk or following.bulk or following.content_bulk:
            return False
        if one.turns or following.turns or one.tag in _ALONE_TAGS:
            return False
        return one.tag < following.tag and bisect(_ALONE, one.tag) == bisect(_ALONE, following.tag)

    def implicit(self) -> "Level":
        """Return how the items inside UN are read (PS3.5 6.2.2)."""
        return self._task.level(
            self._place, IMPLICIT, self._encodings, signed=self._signed, blocks=self._blocks
        )

    def inside(self, tag: int) -> Inside:
        """Return how a sequence is cleaned."""
        known = self._sequences.get(tag)
        if known is None:
            action = self._action(tag) if readable(Element(tag, "SQ", items=())) else "X"
            if action == "C" and dictionary_vr(tag) != "SQ":  # text was to be cleaned, and came as items
                action = self._task.actions.strict(tag, nested=self._place != "root")
            first, rest = self._places(action)
            known = self._sequences[tag] = Inside(
                tag,
                action,
                self._at(first),
                self._at(rest),
                self._did(tag, "K" if action == "C" else action),
                self._turns(tag),
                shell_of(tag, self._task.syntax),
            )
            self._task.held += _ELEMENT_COST
        return known

    def join(self, inside: Inside, items: list[list[Cleaned]], raw: Bytes, *, closed: bool) -> Cleaned:
        """Return what becomes of a sequence whose items are cleaned; `raw` are its bytes."""
        kept = Kept()
        if inside.action != "X":
            written = [] if inside.action == "Z" else items
            if inside.first._place == "hollow":
                written = written[:1]
            elif self._task.structured:
                written = [clean for item in written if (clean := self._content_item(item)) is not None]
            kept = kept_of(inside.shell, written)
        content = sequence_content(inside.tag, items)
        names = [one.names for item in items for one in item if one.names]
        return Cleaned(
            inside.tag, inside.shell.element, kept.written, b"", content.content, b"", kept.json, kept.traces, kept.text,
            _NO_NAMES.union(*names) if names else _NO_NAMES,
            "",
            self._vault_sequence(inside.tag, raw, closed=closed) if self._place == "root" else NOTHING,
            inside.did or kept.did,
            kept.personal,
            content.behind,
            inside.turns,
        )  # fmt: skip

    def _judged(self, element: Element, days: int | None) -> tuple[Element | None, bytes, bool]:
        """Return what an element becomes, what the manifest says of it, and whether it depends on the patient."""
        element, action = self._decided(element)
        hollow, personal = self._place == "hollow", False
        if action == "C":
            manner = Manner(days, self._task.actions.profile.vocabulary)
            clean, personal = (
                (None, False) if hollow else clean_value(as_known(element), self._encodings, manner)
            )
            if clean is not None:
                return clean, self._did(element.tag, "C"), personal
            action = self._task.actions.strict(element.tag, nested=self._place != "root")
        clean = clean_leaf(element, action, self._task.keys, big=self.form.big, hollow=hollow)
        done = "X" if clean is None else "D" if hollow and action == "K" else action
        return clean, self._did(element.tag, done), personal

    def _decided(self, element: Element) -> tuple[Element, Action]:
        tag = element.tag
        if tag >> 16 & 1 and self._task.safe and self._place != "dropped":
            if is_creator(tag):
                reserves = self._task.safe.reserves(tag, plain_text(element.value).strip())
                return replace(element, vr="LO"), "K" if reserves else "X"
            vr = self._task.safe.vr_of(tag, self._blocks)
            undeclared = element.vr == "UN" and not self.form.big
            if not vr or vr == "SQ" or not (undeclared or element.vr == vr):
                return element, "X"
            return replace(element, vr=vr), "U" if vr == "UI" else "K"
        return element, self._action(tag) if readable(element) else "X"

    def _at(self, place: Place) -> "Level":
        return self._task.level(place, self.form, self._encodings, signed=self._signed)

    def _action(self, tag: int) -> Action:
        if self._place == "dropped":
            return "X"
        if tag >> 16 & 1 and self._task.safe and self._task.safe.vr_of(tag, self._blocks) == "SQ":
            return "K"
        return self._task.actions.of(tag, nested=self._place != "root")

    def _did(self, tag: int, action: str) -> bytes:
        if action == "K" or self._place == "dropped":
            return b""
        return b'"%08X":"%b"' % (tag, f"{action} {self._task.actions.rule(tag)}".encode())

    def _content_item(self, item: list[Cleaned]) -> list[Cleaned] | None:
        """Return a content item as its concept allows it (see `structured`); None where it goes."""
        match item_action(item, self._task.actions.profile.options):
            case "X":
                return None
            case "D":
                dummies = self._task.level("hollow", self.form, self._encodings, signed=self._signed)
                return [dummies.judge(one.element) if one.tag == TEXT_VALUE else one for one in item]
            case _:
                return item

    def _turns(self, tag: int) -> bool:
        return tag in _TURNING or (bool(tag >> 16 & 1) and bool(self._task.safe) and is_creator(tag))

    def _places(self, action: Action) -> tuple[Place, Place]:
        match action:
            case "X" | "Z":
                return "dropped", "dropped"
            case "D":
                return "hollow", "dropped"
            case "K" | "C" if self._place == "hollow":
                return "hollow", "dropped"
            case _:
                return "nested", "nested"

    def _vault_sequence(self, tag: int, raw: Bytes, *, closed: bool) -> DicomJson:
        if not is_kept(tag):
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
        self.safe = SafeTable(actions.profile.private)
        self.structured = "clean_structured_content" in actions.profile.options
        self.open_uids = residual.UIDS if "uids" in actions.profile.options else _NO_TAGS
        self.held = 0
        self._levels: dict[tuple[Place, Form, tuple[str, ...], bool, Blocks], Level] = {}

    def level(
        self, place: Place, form: Form, encodings: tuple[str, ...], *, signed: bool, blocks: Blocks = ()
    ) -> Level:
        """Return the level of these properties."""
        name = (place, form, encodings, signed, blocks)
        found = self._levels.get(name)
        if found is None:
            self.held += _LEVEL_COST
            found = self._levels[name] = Level(self, place, form, encodings, signed=signed, blocks=blocks)
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


def _text(element: Element, encodings: tuple[str, ...]) -> str:
    # A sender may have written UN: the dictionary knows what kind of text it is.
    vr = dictionary_vr(element.tag) if element.vr == "UN" else element.vr
    if vr not in TEXT_VRS and len(element.value) > MEMO_BYTES:
        return ""
    return text_of(element, encodings, vr).strip("\x00 ")
