"""What an operation does, told from its name.

Whole words give the class (design §5), the severe ones in all their inflections. Where separators
are missing (`update_deleteall`), a severe word inside a run of letters counts as well: beside a
mild word, an unreadable one must not hide what it says. A word that says nothing known (`ticket`)
neither raises nor lowers. All of this can raise a class without need, never lower it.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import lru_cache

from oars_grpc.core.lookalikes import unreadable
from oars_grpc.core.words import plain, whole_runs, words


class OperationClass(StrEnum):
    """What an operation does, mildest first: of several, the last one wins.

    UNKNOWN stands above WRITE, since a name that cannot be read may hide anything.
    """

    READ = "read"
    WRITE = "write"
    UNKNOWN = "unknown"
    EXECUTE = "execute"
    PERMISSION = "permission"
    MONEY = "money"
    DESTRUCTIVE = "destructive"


_SEVERITY = {operation_class: rank for rank, operation_class in enumerate(OperationClass)}

# Base forms; `_inflections` makes the others, so that only irregular ones are written here.
_SEVERE_WORDS: Mapping[OperationClass, str] = {
    OperationClass.DESTRUCTIVE: """
        delete del destroy destruction drop purge truncate wipe erase erasure remove removal rm
        rmdir unlink shred nuke kill terminate obliterate expunge uninstall deprovision
        decommission overwrite overwritten prune trash teardown""",
    OperationClass.MONEY: """
        transfer pay paid payment payout refund charge withdraw withdrawal withdrawn deposit wire
        purchase buy bought sell sold spend trade invest donate remit remittance disburse reimburse
        settle checkout chargeback""",
    OperationClass.PERMISSION: """
        grant permission permit role privilege admin administrator superuser root sudo su chmod
        chown chgrp acl iam impersonate assume elevate escalate authorize authorise revoke
        revocation invite invitation owner ownership policy token credential secret password passwd
        apikey key mfa share unshare""",
    OperationClass.EXECUTE: """
        execute exec eval evaluate run ran deploy shell bash sh cmd command powershell script invoke
        launch spawn install restart reboot shutdown stop start suspend rollback migrate trigger
        apply ssh merge reset clear flush format discard""",
}
_MILD_WORDS: Mapping[OperationClass, str] = {
    OperationClass.WRITE: """
        create update write send post comment edit set upload publish put patch add insert append
        modify change replace rename move copy save store submit reply email mail message notify
        assign unassign close open reopen archive unarchive restore undelete tag untag label
        subscribe unsubscribe import sync enable disable draft annotate push upsert register
        resolve book reserve schedule""",
    OperationClass.READ: """
        get list read search fetch view describe query count show find lookup inspect check
        download export head options status preview summarize summarise select scan browse watch
        ping help explain validate verify compare diff stat exists peek retrieve load""",
}
# Ordinary words with a severe one inside, wherever they stand in a run of letters: de-script-ion.
_HARMLESS_INSIDE = """
    description descriptor descriptive subscription transcript transcription prescription
    manuscript information transformation retrieval emergency investigation investigate secretary
    executive payload wireless wireframe dropdown dropbox sharepoint trademark nuclear"""
# The same, but only as whole words: inside a run they may end a plural (`diskswipe`, `appreset`).
_HARMLESS_ALONE = "skill skills preset presets swipe swipes backdrop"
# What stands around other words in a run of letters.
_FILLERS = "all any and by bulk data every file files id ids item items many then user"

# Below this, a word is part of too many others: `del` of adelaide, `run` of brunch.
_SHORTEST_INSIDE = 4


def classify_operation(operation: str) -> tuple[OperationClass, str]:
    """The most severe class that a name speaks of, and the word that gave it.

    Letters that are still not ASCII after folding may be lookalikes, so such a name is at least
    UNKNOWN, whatever words stand beside them; and within a word of Latin ones, where they may
    stand for any letter, they say the worst.
    """
    candidates = [
        (_WORD_CLASS[word], word) for word in sorted(words(operation)) if word in _WORD_CLASS
    ]
    candidates += [(found, run) for run in sorted(whole_runs(operation)) for found in _hidden(run)]
    if not candidates or not plain(operation).isascii():
        candidates.append((OperationClass.UNKNOWN, "no known word, or letters beyond ASCII"))
    if unreadable(operation):
        candidates.append((OperationClass.DESTRUCTIVE, "letters of several alphabets in a word"))
    return max(candidates, key=lambda candidate: _SEVERITY[candidate[0]])


@lru_cache(maxsize=4096)
def _hidden(run: str) -> tuple[OperationClass, ...]:
    """The severe classes that a run of letters without separators speaks of."""
    if run in _WORD_CLASS or run in _ALONE:
        return ()
    for harmless in _INSIDE:
        run = run.replace(harmless, " ")
    found: set[OperationClass] = set()
    for piece in run.split():
        told = _told_by_parts(piece)
        if told is None:
            told = {kind for word, kind in _SEVERE_INSIDE.items() if word in piece}
        found |= told
    return tuple(found & set(_SEVERE_WORDS))


def _told_by_parts(piece: str) -> set[OperationClass] | None:
    """The classes of all words of which known words make up the piece; None if they do not.

    Here short words count too (`sshkey`), and harmless ones are read as such (`getskill`).
    """
    # For each position that known words reach from the beginning: the classes met on the way.
    reached: dict[int, set[OperationClass]] = {0: set()}
    for start in range(len(piece)):
        if start not in reached:
            continue
        for end in range(start + 2, min(start + _LONGEST, len(piece)) + 1):
            word = piece[start:end]
            if word in _WORD_CLASS:
                reached.setdefault(end, set()).update(reached[start], {_WORD_CLASS[word]})
            elif word in _ALONE or word in _AROUND:
                reached.setdefault(end, set()).update(reached[start])
    return reached.get(len(piece))


def _inflections(word: str) -> Iterator[str]:
    """A word and its regular forms: deletes, deleted, deleting, deletion.

    Some that English lacks are among them; they do no harm.
    """
    yield word
    if len(word) < 3:
        return
    stem = word.removesuffix("e")
    yield from (f"{word}s", f"{stem}ed", f"{stem}ing")
    if word.endswith(("s", "sh", "ch", "x")):
        yield f"{word}es"
    if word.endswith("te"):
        yield from (f"{stem}ion", f"{stem}ions")
    if word.endswith("y") and word[-2] not in "aeiou":
        yield from (f"{word[:-1]}ies", f"{word[:-1]}ied")
    if word[-1] not in "aeiouwxy" and word[-2] in "aeiou" and word[-3] not in "aeiou":
        yield from (f"{word}{word[-1]}ed", f"{word}{word[-1]}ing")


_SEVERE = {
    form: (kind, word)
    for kind, text in reversed(list(_SEVERE_WORDS.items()))  # the severest of a form's words wins
    for word in text.split()
    for form in _inflections(word)
}
_WORD_CLASS = {form: kind for form, (kind, _) in _SEVERE.items()} | {
    word: kind for kind, text in _MILD_WORDS.items() for word in text.split()
}
_SEVERE_INSIDE = {
    form: kind for form, (kind, word) in _SEVERE.items() if len(word) >= _SHORTEST_INSIDE
}
_INSIDE = sorted(_HARMLESS_INSIDE.split(), key=len, reverse=True)
_ALONE = frozenset(_HARMLESS_ALONE.split())
_AROUND = frozenset(_FILLERS.split())
_LONGEST = max(map(len, (*_WORD_CLASS, *_ALONE, *_AROUND)))
