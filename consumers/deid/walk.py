"""The one pass over a received dataset: every element is met once and becomes a `Cleaned`.

1. The instances of a series differ in a few elements. Between those stand runs of elements that are the same
   as in the instance before: where the bytes are, a whole run is one step (`Level.runs`).
2. The first eight bytes of an element (tag, VR, length) say how long it is: `Level.sizes` knows the forms
   that were met before, so that no header is taken apart twice; and its bytes say what becomes of it:
   `Level.memo` knows the elements that were judged before.
3. What is new is read within bounds and judged (`Level.judge`); sequences are walked item by item. Within them a
   short sequence that stood there before, in the frame before for instance, is one step too (`Level.met`).

Depth, elements, declared lengths and delimiters are checked on the way; what does not fit is a
`Quarantine`. Recursion is bounded by `MAX_DEPTH`. Nothing is decided here about what an element may keep.
"""

from typing import Final

from consumers.deid.cleaned import Cleaned
from consumers.deid.elements import (
    ITEM,
    ITEM_END,
    ITEM_START,
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_IN_ITEM,
    PIXEL_TAGS,
    SEQUENCE_END,
    UNDEFINED,
    Element,
    dictionary_vr,
)
from consumers.deid.levels import MEMO_BYTES, MEMO_SEQUENCE, Level, Met
from schemas.errors import Quarantine

MIN_RUN: Final = 3  # elements; shorter runs cost what they save
_NO_RUN: Final = (b"", None)
#: an element that is as it was in the instance before: from, to, how it is read, what it is
_Steady = tuple[int, int, Level, Cleaned]
_FAR: Final = 1 << 62  # the length of a form not met before: beyond any end


def walk(data: bytes, level: Level, start: int = 0) -> list[Cleaned]:
    """Read and clean a whole dataset (already inflated).

    Parameters
    ----------
    data : bytes
        The dataset, or the file that ends with it; what is returned holds views into it.
    level : Level
        How the root is read and cleaned, and by how many days dates are moved.
    start : int
        Where the dataset begins in `data`.

    Raises
    ------
    schemas.errors.Quarantine
        `truncated`, `over_limit` or `unreadable_dataset`.
    """
    found, last = _Walk(data, level).root(level, start), -1
    for one in found:
        if one.tag <= last:  # out of order: runs would be written in the wrong place
            return [each for one in found for each in (one.members.values() or (one,))]
        last = one.last
    return found


class _Walk:
    """No cursor: every method takes a position and returns the next one."""

    def __init__(self, data: bytes, level: Level) -> None:
        self.data = data
        self.days = level.days
        self.form = level.form
        self.view = memoryview(data)
        self.left = MAX_ELEMENTS
        self.deepest = 0

    def root(self, level: Level, pos: int) -> list[Cleaned]:
        """Clean the elements of the root, known runs in one step, and learn more runs."""
        data, end = self.data, len(self.data)
        found: list[Cleaned] = []
        steady: list[_Steady] = []
        while pos < end:
            form = data[pos : pos + 8]
            raw, one = level.runs.get(form, _NO_RUN)
            if one is not None and data.startswith(raw, pos):
                self.left -= len(one.members)
                stop = pos + len(raw)
            else:
                one, stop = self.one(pos, end, level)
                if level.last.get(form) is one:
                    steady.append((pos, stop, level, one))
                elif stop - pos <= (MEMO_BYTES if one.element.items is None else MEMO_SEQUENCE):
                    level.note(form, one)
                level = level.after(one)
            found.append(one)
            pos = stop
            if len(found) > MAX_IN_ITEM or self.left < 0:
                raise Quarantine("over_limit", f"more than {MAX_ELEMENTS} elements")
        self.learn(steady)
        return found

    def one(self, pos: int, end: int, level: Level) -> tuple[Cleaned, int]:
        """Clean one element of the root."""
        stop = pos + level.sizes.get(self.data[pos : pos + 8], _FAR)
        one = level.memo.get(self.data[pos:stop]) if stop <= end else None
        if one is not None:
            return one, stop
        if end - pos < 8:
            raise Quarantine("truncated", f"{end - pos} bytes where an element was expected")
        group, number, length = level.form.tag_length(self.data, pos)
        one, stop = self.element(group << 16 | number, length, pos, end, level, 0)
        if one.element.items is not None and stop - pos <= MEMO_SEQUENCE:
            one = level.remember(self.data[pos:stop], one)
        return one, stop

    def learn(self, steady: list[_Steady]) -> None:
        """Make one step of elements that are the same as last time and stand behind each other."""
        run: list[_Steady] = []
        for this in steady:
            if run and not (run[-1][1] == this[0] and this[2].joins(run[-1][3], this[3])):
                self.keep(run)
                run = []
            run.append(this)
        self.keep(run)

    def keep(self, run: list[_Steady]) -> None:
        """Keep a run, if it is long enough to pay."""
        if len(run) >= MIN_RUN:
            level = run[0][2]
            level.keep_run(self.data[run[0][0] : run[-1][1]], [one for _, _, _, one in run])

    def elements(
        self, pos: int, end: int, level: Level, depth: int, *, closed: bool
    ) -> tuple[list[Cleaned], int]:
        """Clean the elements up to `end`, or up to an item delimiter where the item is `closed` by one."""
        if depth > MAX_DEPTH:
            raise Quarantine("over_limit", f"nested deeper than {MAX_DEPTH}")
        if depth > self.deepest:
            self.deepest = depth
        data, sizes, memo, met = self.data, level.sizes, level.memo, level.met
        found: list[Cleaned] = []
        while pos < end:
            if len(found) > MAX_IN_ITEM:
                raise Quarantine("over_limit", f"more than {MAX_IN_ITEM} elements in one item")
            form, one = data[pos : pos + 8], None
            if form in met:
                one, stop = self.again(met[form], pos, end, depth)
            elif form in sizes and (stop := pos + sizes[form]) <= end:
                one = memo.get(data[pos:stop])
            if one is None:
                if end - pos < 8:
                    raise Quarantine("truncated", f"{end - pos} bytes where an element was expected")
                group, number, length = level.form.tag_length(data, pos)
                tag = group << 16 | number
                if tag == ITEM_END and closed:
                    closed, pos = False, pos + 8
                    break
                one, stop = self.nested(form, tag, length, pos, end, level, depth)
                if one.turns:
                    level = level.after(one)
                    sizes, memo, met = level.sizes, level.memo, level.met
            found.append(one)
            pos = stop
        if closed:
            raise Quarantine("truncated", "an item without its delimiter")
        self.left -= len(found)
        if self.left < 0:
            raise Quarantine("over_limit", f"more than {MAX_ELEMENTS} elements")
        return found, pos

    def again(self, met: Met, pos: int, end: int, depth: int) -> tuple[Cleaned | None, int]:
        """Return a nested sequence that was met before, if this is the same one."""
        stop = pos + len(met.raw)
        if stop > end or depth + met.deep > MAX_DEPTH or not self.data.startswith(met.raw, pos):
            return None, pos
        self.deepest = max(self.deepest, depth + met.deep)
        self.left -= met.elements
        return met.one, stop

    def nested(
        self, form: bytes, tag: int, length: int, pos: int, end: int, level: Level, depth: int
    ) -> tuple[Cleaned, int]:
        """Clean an element of an item, and remember it where it is a short sequence."""
        left, deepest, self.deepest = self.left, self.deepest, depth
        one, stop = self.element(tag, length, pos, end, level, depth)
        if one.element.items is not None and stop - pos <= MEMO_SEQUENCE:
            level.meet(form, Met(self.data[pos:stop], one, left - self.left, self.deepest - depth))
        if deepest > self.deepest:
            self.deepest = deepest
        return one, stop

    def element(
        self, tag: int, length: int, pos: int, end: int, level: Level, depth: int
    ) -> tuple[Cleaned, int]:
        """Clean one element whose tag (and 32 bits behind it) have been read."""
        if tag >> 16 in (0, 0xFFFE):
            raise Quarantine("unreadable_dataset", "a command or delimiter tag where an element was expected")
        vr, length, start = level.form.header(self.data, tag, length, pos, end)
        if length == UNDEFINED:
            return self.undefined(tag, vr, start, end, level, depth)
        if length > end - start:
            raise Quarantine("truncated", f"{length} bytes declared, {end - start} present")
        stop = start + length
        if vr == "SQ":
            return self.sequence(tag, start, stop, level, depth, closed=False)
        # In big endian the values inside UN stay little endian (PS3.5 6.2.2): opaque, and later removed.
        if vr == "UN" and level.form.marks_unknown and dictionary_vr(tag) == "SQ" and length >= 8:
            try:
                return self.sequence(tag, start, stop, level.implicit(), depth, closed=False)
            except Quarantine:
                pass  # no items: a value like any other
        return self.leaf(tag, vr, pos, start, stop, level), stop

    def leaf(self, tag: int, vr: str, pos: int, start: int, stop: int, level: Level) -> Cleaned:
        """Clean an element that has a value."""
        if stop - pos > MEMO_BYTES or self.data.startswith(ITEM_START, start, stop):
            return level.judge(Element(tag, vr, self.view[start:stop]), self.days)
        raw = self.data[pos:stop]
        one = level.memo.get(raw) or level.turning.get(raw)
        if one is None:
            short = start - pos == 8  # a header without bytes that mean nothing
            as_it_came = raw if short and not len(raw) % 2 and level.form is self.form else b""
            one = level.judge(Element(tag, vr, raw[start - pos :]), self.days, as_it_came)
            level.remember(raw, one, short=short)
        return one

    def undefined(
        self, tag: int, vr: str, pos: int, end: int, level: Level, depth: int
    ) -> tuple[Cleaned, int]:
        """Clean an element of undefined length: fragments, a sequence, or UN as an implicit sequence."""
        if tag in PIXEL_TAGS or vr in ("OB", "OW"):
            element, stop = level.form.fragments(self.view, tag, vr, pos, end)
            return level.judge(element), stop
        if vr not in ("SQ", "UN"):
            raise Quarantine("unreadable_dataset", f"undefined length with VR {vr}")
        inside = level.implicit() if vr == "UN" and level.form.marks_unknown else level
        return self.sequence(tag, pos, end, inside, depth, closed=True)

    def sequence(
        self, tag: int, pos: int, end: int, level: Level, depth: int, *, closed: bool
    ) -> tuple[Cleaned, int]:
        """Clean the items up to `end`, or up to the sequence delimiter where the sequence is `closed` by one."""
        inside = level.inside(tag)
        start, undefined, next_level = pos, closed, inside.first
        items: list[list[Cleaned]] = []
        while pos < end:
            mark, length = level.form.item_header(self.data, pos, end)
            pos += 8
            if mark == SEQUENCE_END and closed:
                closed = False
                break
            if mark != ITEM:
                raise Quarantine("unreadable_dataset", "an item was expected in a sequence")
            stop = end if length == UNDEFINED else pos + length
            if stop > end:
                raise Quarantine("truncated", f"an item of {length} bytes declared, {end - pos} present")
            item, pos = self.elements(pos, stop, next_level, depth + 1, closed=length == UNDEFINED)
            items.append(item)
            next_level = inside.rest
        if closed:
            raise Quarantine("truncated", "a sequence without its delimiter")
        return level.join(inside, items, self.view[start:pos], closed=undefined), pos
