"""Asks a benchmark's questions and saves every answer: in groups, so that memory does not grow with the benchmark.

* A group is read while the one before is being answered. It ends at a number of questions or of bytes of pictures,
  whichever comes first, so that two groups of pictures are in memory at most.
* What is saved already is not asked again. A saved item must be the question it was: another data set under the
  same ids is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from vldac.evaluate.benchmark import BenchmarkError, Question, Sample
from vldac.evaluate.samples import Record, SampleLog, digest
from vldac.generate.request import Answerer, Reply, images_of

GROUP_BYTES = 512 * 2**20


def ask(
    questions: Iterable[Question],
    judge: Callable[[Question, Reply], Sample],
    answerer: Answerer,
    log: SampleLog,
    group: int,
    on_answer: Callable[[Record], None] = lambda record: None,
    group_bytes: int = GROUP_BYTES,
) -> dict[str, int]:
    """Answers and saves all questions that are not saved yet.

    Args:
      questions: read as they are needed, by another thread.
      judge: scores an answer.
      answerer: answers a group at a time.
      log: where samples go; its records are not asked again.
      group: questions at a time at most.
      on_answer: called with every record, those that were saved before as well (by the thread that reads).
      group_bytes: of pictures at a time, at most, unless a single question has more.

    Returns:
      Why questions could not be read, each reason with how many there were. A benchmark whose iterator goes on
        after an error loses what is damaged, not what comes after it.

    Raises:
      BenchmarkError: nothing can be read, an item is not the question that was saved, or the model can not take a
        question; what was answered before is saved.
      RunFileError: a sample can not be written.
    """
    unread: dict[str, int] = {}
    groups = _groups(_unsaved(_readable(questions, unread), log, on_answer), group, group_bytes)
    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = reader.submit(next, groups, None)
        while (now := upcoming.result()) is not None:
            upcoming = reader.submit(next, groups, None)
            for question, reply in _replies(now, answerer):
                on_answer(log.add(judge(question, reply), digest(question), reply))
    if unread and not log.records:
        raise BenchmarkError(next(iter(unread)))
    return unread


def _readable(questions: Iterable[Question], unread: dict[str, int]) -> Iterator[Question]:
    """The questions that can be read; `unread` counts the others."""
    iterator = iter(questions)
    while True:
        try:
            question = next(iterator)
        except StopIteration:
            return
        except BenchmarkError as error:
            unread[str(error)] = unread.get(str(error), 0) + 1
        else:
            yield question


def _replies(group: list[Question], answerer: Answerer) -> Iterator[tuple[Question, Reply]]:
    """Each question with its reply. Where the model can not take one, those before it are answered."""
    try:
        replies = answerer.answer([question.request for question in group])
    except ValueError as error:
        if len(group) == 1:
            raise BenchmarkError(f"question {group[0].id!r} can not be asked: {error}") from error
        for question in group:
            yield from _replies([question], answerer)
    else:
        yield from zip(group, replies, strict=True)


def _unsaved(
    questions: Iterable[Question], log: SampleLog, on_answer: Callable[[Record], None]
) -> Iterator[Question]:
    for question in questions:
        record = log.records.get(question.id)
        if record is None:
            yield question
        elif record.asked != digest(question):
            raise BenchmarkError(
                f"{log.path}: {question.id!r} is another question than the one that is saved there; "
                f"accepted: the same data, or another name for the results"
            )
        else:
            on_answer(record)


def _groups(questions: Iterable[Question], group: int, group_bytes: int) -> Iterator[list[Question]]:
    now: list[Question] = []
    buffers: dict[int, int] = {}
    for question in questions:
        # Questions on one video may share its frames: a buffer counts once.
        these = {id(owner): owner.nbytes for owner in map(_owner, images_of(question.request.messages))}
        more = these.keys() - buffers.keys()
        if now and (len(now) >= group or (more and sum((buffers | these).values()) > group_bytes)):
            yield now
            now, buffers = [], {}
        now.append(question)
        buffers |= these
    if now:
        yield now


def _owner(pixels):
    """The array whose memory a picture is a view of."""
    while getattr(pixels, "base", None) is not None and hasattr(pixels.base, "nbytes"):
        pixels = pixels.base
    return pixels
