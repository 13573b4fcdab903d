"""The checker: from evidence to what is lost, corrupt, unexpected, doubled, leaked or stuck. Pure.

A set-and-queue check in the manner of Jepsen (guide to promises, 3.1). Each row of `CHECKS` is one question;
it yields a line for each instance, row, object or message that breaks a promise, and nothing if all is well.

What it cannot see: a sync that was skipped (the kernel keeps what was written when a process is killed; see
`order`), and what nobody acknowledged and nobody wrote.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from evidence import Evidence, Row
from sender import Sent, is_success

#: outcomes by which a content has its own row in the index
_INDEXED: Final = ("clean", "corrected", "conflict")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a checker found; `found` by question, `counts` of what was looked at."""

    found: dict[str, tuple[str, ...]]
    counts: dict[str, int]

    @property
    def zero(self) -> bool:
        """Whether every promise held."""
        return not any(self.found.values())

    def breaks(self, *kinds: str) -> bool:
        """Whether one of these kinds was found."""
        return any(self.found[kind] for kind in kinds)

    def table(self) -> str:
        """Return both as text, with the first few of each kind."""
        lines = ["  ".join(f"{name} {count}" for name, count in self.counts.items())]
        for kind, some in self.found.items():
            lines += [f"{kind:12}{len(some):6}", *(f"    {one}" for one in some[:5])]
        return "\n".join(lines)


def judge(evidence: Evidence) -> Verdict:
    """Return what is wrong, and how much was looked at."""
    found = {kind: tuple(one for ask in asks for one in ask(evidence)) for kind, asks in CHECKS.items()}
    sent, present = evidence.sent, _present(evidence)
    counts = {
        "attempted": len(sent),
        "acknowledged": sum(one.acknowledged for one in sent),
        "answers": sum(answer is not None for one in sent for answer in one.answers),
        "unanswered": sum(answer is None for one in sent for answer in one.answers),
        "recovered": sum(one.unknown and _is_present(evidence, present, one) for one in sent),
        "intakes": len(evidence.ended),
        "rows": len(evidence.rows),
        "objects": len(evidence.objects),
        "messages": len(evidence.said),
        "predictions": len(evidence.predictions),
        "dead": len(evidence.dead),
    }
    return Verdict(found=found, counts=counts)


# lost


def _not_present(evidence: Evidence) -> Iterator[str]:
    """What was acknowledged ends with an effect: an indexed object with its image, or bytes in quarantine."""
    present = _present(evidence)
    for one in evidence.sent:
        if one.acknowledged and not _is_present(evidence, present, one):
            ends = sorted({end.outcome for end in evidence.ended if end.uid == one.uid}) or ["no outcome"]
            yield f"{_short(one)}: acknowledged; {', '.join(ends)}; without its effect"


def _not_counted(evidence: Evidence) -> Iterator[str]:
    """Every answer that took responsibility is an intake of its own."""
    counted = Counter(end.uid for end in evidence.ended)
    answered: Counter[str] = Counter()
    for one in evidence.sent:
        answered[one.uid] += sum(map(is_success, one.answers))
    for uid, n in answered.items():
        if counted[uid] < n:
            yield f"instance …{uid[-8:]}: acknowledged {n} times, {counted[uid]} intakes ended"


def _not_kept(evidence: Evidence) -> Iterator[str]:
    """What is quarantined or dead has its bytes kept, as they were sent."""
    contents: dict[str, set[str]] = defaultdict(set)
    for one in evidence.sent:
        contents[one.uid].add(one.content)
    for end in evidence.ended:
        if end.outcome in ("quarantined", "dead"):
            kept = evidence.kept.get(end.intake)
            if kept is None:
                yield f"intake {end.intake}: {end.outcome} ({end.reason}), and no bytes kept"
            elif kept not in contents[end.uid]:
                yield f"intake {end.intake}: {end.outcome}, and other bytes kept than were sent"


def _not_revised(evidence: Evidence) -> Iterator[str]:
    """Every indexed instance is listed by its study's newest revision."""
    heads = {head.study: head for head in evidence.heads}
    indexed: dict[str, set[str]] = defaultdict(set)
    for row in evidence.rows:
        indexed[row.study].add(row.uid)
    for study, uids in indexed.items():
        if study not in heads:
            yield f"study {study[-8:]}: {len(uids)} instances indexed, no revision"
        elif (members := heads[study].members) is None:
            yield f"study {study[-8:]}: no manifest of revision {heads[study].revision}"
        elif missing := uids - members:
            yield f"study {study[-8:]}: {len(missing)} of {len(uids)} are not in its revision"


def _not_said(evidence: Evidence) -> Iterator[str]:
    """Each newest revision and each stored prediction is on its topic."""
    said = {message.about for message in evidence.said if message.about}
    for head in evidence.heads:
        if (head.study, str(head.revision), head.set_id) not in said:
            yield f"study {head.study[-8:]}: revision {head.revision} was never published"
    for one in evidence.predictions:
        if (one.prediction,) not in said:
            yield f"prediction {one.prediction[:8]}: never published"


def _not_scored(evidence: Evidence) -> Iterator[str]:
    """Each study that a model must answer has an effective prediction."""
    answered = {one.study for one in evidence.predictions if one.effective}
    yield from (f"study {study[-8:]}: no effective prediction" for study in evidence.scored - answered)


def _dead(evidence: Evidence) -> Iterator[str]:
    """Nothing but poison ends as dead."""
    for end in evidence.ended:
        if end.outcome == "dead" and end.uid not in evidence.expected_dead:
            yield f"intake {end.intake}: dead ({end.reason})"


# corrupt


def _broken_objects(evidence: Evidence) -> Iterator[str]:
    """Every clean object parses to its end, and every row's pointer names the bytes that are there."""
    for key, stored in evidence.objects.items():
        if stored.image is None:
            yield f"object {key[-12:]}: {stored.length} bytes that do not parse"
    for row in evidence.rows:
        there = evidence.objects.get(row.key)
        if there is not None and (there.length, there.digest) != (row.length, row.digest):
            yield f"object {row.key[-12:]}: not the bytes that its row names"


def _other_images(evidence: Evidence) -> Iterator[str]:
    """Every clean object shows an image that was sent under its UID."""
    images = _images(evidence)
    for key, stored in evidence.objects.items():
        if stored.image is not None and stored.uid in images and stored.image not in images[stored.uid]:
            yield f"object {key[-12:]}: an image that was never sent under its UID"


# unexpected


def _never_sent(evidence: Evidence) -> Iterator[str]:
    """Nothing is there that nobody sent."""
    known = {evidence.clean_uid[one.uid] for one in evidence.sent}
    raw = {one.uid for one in evidence.sent}
    for row in evidence.rows:
        if row.uid not in known:
            yield f"row {row.uid[-8:]}: never sent"
    for key, stored in evidence.objects.items():
        if stored.uid is not None and stored.uid not in known:
            yield f"object {key[-12:]}: never sent"
    yield from (f"intake {end.intake}: never sent" for end in evidence.ended if end.uid not in raw)


# doubled


def _too_many_rows(evidence: Evidence) -> Iterator[str]:
    """An instance has one row and one object a content, and one version of each number."""
    images = _images(evidence)
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in evidence.rows:
        rows[row.uid].append(row)
    for uid, some in rows.items():
        if len(some) > len(images.get(uid, some)):
            yield f"instance {uid[-8:]}: {len(some)} rows of {len(images[uid])} contents"
        if len({row.version for row in some}) < len(some):
            yield f"instance {uid[-8:]}: two rows of one version"
    copies = Counter((stored.uid, stored.image) for stored in evidence.objects.values() if stored.image)
    yield from (
        f"instance {str(uid)[-8:]}: {n} objects of one content" for (uid, _), n in copies.items() if n > 1
    )


def _too_many_outcomes(evidence: Evidence) -> Iterator[str]:
    """An intake ends once; of the intakes of an instance one is clean, and each further content counts once."""
    for intake, outcomes in evidence.settled.items():
        if len(outcomes - {"dead"}) > 1:
            yield f"intake {intake}: {' and '.join(sorted(outcomes))}"
    contents = {uid: len(images) for uid, images in _raw_images(evidence).items()}
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for end in evidence.ended:
        ends[end.uid][end.outcome] += 1
    for uid, some in ends.items():
        counted = sum(some[outcome] for outcome in _INDEXED)
        if some["clean"] > 1 or counted > contents.get(uid, counted):
            yield f"instance {uid[-8:]}: {dict(some)} of {contents.get(uid)} contents"


def _differing_bodies(evidence: Evidence) -> Iterator[str]:
    """A message that is repeated has the body, and the key, that it had."""
    bodies: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for message in evidence.said:
        bodies[message.topic, message.id].add((message.key, message.body))
    for (topic, name), some in bodies.items():
        if name and len(some) > 1:
            yield f"{topic} {name[:8]}: {len(some)} bodies of one message"


def _two_answers(evidence: Evidence) -> Iterator[str]:
    """A revision is one set; a study has one effective prediction a model; a prediction one body."""
    sets: dict[tuple[str, str], set[str]] = defaultdict(set)
    for message in evidence.said:
        if len(message.about) == 3:
            sets[message.about[:2]].add(message.about[2])  # type: ignore[index]
    for (study, revision), names in sets.items():
        if len(names) > 1:
            yield f"study {study[-8:]}: {len(names)} sets of revision {revision}"
    effective = Counter((one.study, one.model) for one in evidence.predictions if one.effective)
    yield from (
        f"study {study[-8:]}: {n} effective predictions" for (study, _), n in effective.items() if n > 1
    )
    bodies: dict[str, set[str]] = {one.prediction: {one.body} for one in evidence.predictions}
    for message in evidence.said:
        if len(message.about) == 1:
            bodies.setdefault(message.about[0], set()).add(message.body)
    yield from (
        f"prediction {name[:8]}: {len(some)} bodies" for name, some in bodies.items() if len(some) > 1
    )


# leaked and stuck


def _leaks(evidence: Evidence) -> Iterator[str]:
    """Nothing planted is behind the boundary."""
    yield from evidence.leaks


def _still_working(evidence: Evidence) -> Iterator[str]:
    """Nothing is in flight, nothing waits on a topic, nothing was begun and not published."""
    if evidence.in_flight:
        yield f"{evidence.in_flight} intakes in flight"
    yield from (f"{group}: {n} messages wait" for group, n in evidence.lags.items() if n)
    for head in evidence.heads:
        if not head.published:
            yield f"study {head.study[-8:]}: revision {head.revision} is not marked as published"
    for one in evidence.predictions:
        if not one.published:
            yield f"prediction {one.prediction[:8]} is not marked as published"


#: what is counted -> the questions that find it
CHECKS: Final[dict[str, Sequence[Callable[[Evidence], Iterable[str]]]]] = {
    "lost": (_not_present, _not_counted, _not_kept, _not_revised, _not_said, _not_scored, _dead),
    "corrupt": (_broken_objects, _other_images),
    "unexpected": (_never_sent,),
    "doubled": (_too_many_rows, _too_many_outcomes, _differing_bodies, _two_answers),
    "leaked": (_leaks,),
    "stuck": (_still_working,),
}


def _present(evidence: Evidence) -> set[tuple[str, str]]:
    """(clean UID, image) of every row whose object is there whole, and (UID, content) of all that is kept."""
    found = {
        (row.uid, stored.image)
        for row in evidence.rows
        if (stored := evidence.objects.get(row.key)) is not None and stored.image and stored.uid == row.uid
    }
    kept = {(end.uid, evidence.kept.get(end.intake, "")) for end in evidence.ended}
    return found | kept


def _is_present(evidence: Evidence, present: set[tuple[str, str]], one: Sent) -> bool:
    return (evidence.clean_uid[one.uid], one.image) in present or (one.uid, one.content) in present


def _images(evidence: Evidence) -> dict[str, set[str]]:
    return {evidence.clean_uid[uid]: images for uid, images in _raw_images(evidence).items()}


def _raw_images(evidence: Evidence) -> dict[str, set[str]]:
    images: dict[str, set[str]] = defaultdict(set)
    for one in evidence.sent:
        images[one.uid].add(one.image)
    return images


def _short(one: Sent) -> str:
    return f"instance …{one.uid[-8:]}"
