"""Asks a benchmark's questions and saves every answer.

* One thread reads questions and hands them to the model ahead of the answers, so that a lane whose answer has
  ended finds the next question waiting. It pauses while enough of them are being answered, and while the pictures
  of those that are not saved yet take the memory that they may: it does not grow with the benchmark.
* Another saves the answers as they end, in the questions' order: one that overtakes another waits for it.
* Whatever stops it, what has ended is saved; only what is being answered is lost.
* What is saved already is not asked again. A saved item must be the question it was: another data set under the
  same ids is refused.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vldac.evaluate.benchmark import BenchmarkError, Question, Sample
from vldac.evaluate.samples import Record, SampleLog, digest
from vldac.generate.request import Answerer, Reply, Request, images_of

PICTURE_BYTES = 2**30


@runtime_checkable
class Stream(Protocol):
    """An answer that is being written."""

    def cancel(self) -> None:
        """It is not wanted any more."""
        ...


@runtime_checkable
class Streaming(Answerer, Protocol):
    """An answerer that takes a request while it answers others, as the engine does."""

    def submit(self, request: Request, listener: Callable[[str | Reply | BaseException], None]) -> Stream:
        """Begins to answer. The listener is told pieces of text, and at last the reply or what went wrong.

        Raises:
          ValueError: a request that does not fit the model.
        """
        ...


def ask(
    questions: Iterable[Question],
    judge: Callable[[Question, Reply], Sample],
    answerer: Answerer,
    log: SampleLog,
    at_once: int,
    on_answer: Callable[[Record], None] = lambda record: None,
    picture_bytes: int = PICTURE_BYTES,
) -> dict[str, int]:
    """Answers and saves all questions that are not saved yet.

    Args:
      questions: read as they are needed, by another thread; those that are saved may lack their pictures.
      judge: scores an answer; called by another thread.
      answerer: the model. One that is not `Streaming` answers a question at a time.
      log: where samples go; its records are not asked again.
      at_once: questions that are being answered, or wait for it, at most.
      on_answer: called with every record, those that were saved before as well, by the threads that read and save.
      picture_bytes: of the pictures of questions that are asked and not saved, at most, unless a single question
        has more.

    Returns:
      Why questions could not be read, each reason with how many there were. A benchmark whose iterator goes on
        after an error loses what is damaged, not what comes after it.

    Raises:
      BenchmarkError: nothing can be read, an item is not the question that was saved, or the model can not take a
        question; what was answered before is saved.
      RunFileError: a sample can not be written.
    """
    unread: dict[str, int] = {}
    line = _Line(answerer, at_once, picture_bytes)

    def save() -> None:  # not in the caller's thread, where a Ctrl-C could come between
        for question, reply in line.replies():
            on_answer(log.add(judge(question, reply), digest(question), reply))

    # The line is left before the threads are waited for: they end. Nothing is asked before there is who saves it,
    # as a Ctrl-C may come between the two, and a thread that was just starting then is not waited for.
    with ThreadPoolExecutor(max_workers=2) as threads, line:
        saving = threads.submit(save)
        reading = threads.submit(line.fill, _unsaved(_readable(questions, unread), log, on_answer))
        saving.result()
        reading.result()
    if unread and not log.records:
        raise BenchmarkError(next(iter(unread)))
    return unread


@dataclass(frozen=True, eq=False)
class _Asked:
    """A question, the buffers of its pictures ({id: bytes}: frames that questions share count once), its reply."""

    question: Question
    buffers: dict[int, int]
    reply: Future[Reply]
    stream: Stream | None

    def cancel(self) -> None:
        if self.reply.cancel() and self.stream is not None:
            self.stream.cancel()


class _Line:
    """Questions that are asked and not saved yet, in order. A context manager: what is left in it is cancelled.

    Args:
      answerer, at_once, picture_bytes: see `ask`.
    """

    def __init__(self, answerer: Answerer, at_once: int, picture_bytes: int):
        self._answerer, self._at_once, self._picture_bytes = answerer, at_once, picture_bytes
        self._held: collections.deque[_Asked] = collections.deque()
        self._changed = threading.Condition()
        self._stopped = self._filling = self._filled = False

    def fill(self, questions: Iterable[Question]) -> None:
        """Asks them one after another, each as soon as there is room for it."""
        with self._changed:
            if self._stopped:
                return
            self._filling = True
        try:
            for question in questions:
                buffers = {id(owner): owner.nbytes for owner in map(_owner, images_of(question.request.messages))}
                with self._changed:
                    self._changed.wait_for(lambda more=buffers: self._stopped or self._room(more))
                    if self._stopped:
                        return
                asked = _Asked(question, buffers, *self._begin(question.request))
                with self._changed:
                    self._held.append(asked)
                    if self._stopped:
                        asked.cancel()
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._filled = True
                self._changed.notify_all()

    def replies(self) -> Iterator[tuple[Question, Reply]]:
        """Each question with its reply, in order. An error is raised when those that have ended by then have come.

        Raises:
          BenchmarkError: the model can not take a question.
          Exception: whatever went wrong on the device.
        """
        failure: BaseException | None = None
        while (asked := self._first()) is not None:
            try:
                reply = asked.reply.result()
            except CancelledError:
                pass
            except Exception as error:
                failure = failure or _named(error, asked.question)
                self.stop()
            else:
                yield asked.question, reply
            with self._changed:
                self._held.popleft()
                self._changed.notify_all()
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """No more is asked, and what is being answered is not wanted."""
        with self._changed:
            self._stopped = True
            for asked in self._held:
                asked.cancel()
            self._changed.notify_all()

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _first(self) -> _Asked | None:
        """The one whose turn it is to be saved; None where there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._filled or (self._stopped and not self._filling))
            return self._held[0] if self._held else None

    def _room(self, more: dict[int, int]) -> bool:
        """Whether a question with such buffers may be asked."""
        if sum(not asked.reply.done() for asked in self._held) >= self._at_once:
            return False
        held: dict[int, int] = {}
        for asked in self._held:
            held |= asked.buffers
        return not held or more.keys() <= held.keys() or sum((held | more).values()) <= self._picture_bytes

    def _begin(self, request: Request) -> tuple[Future[Reply], Stream | None]:
        reply: Future[Reply] = Future()

        def listen(event: str | Reply | BaseException) -> None:
            # One that is cancelled is told a reply all the same, of what was written so far.
            if isinstance(event, str) or not reply.set_running_or_notify_cancel():
                return
            if isinstance(event, Reply):
                reply.set_result(event)
            else:
                reply.set_exception(event)
            with self._changed:
                self._changed.notify_all()

        stream = None
        try:
            if isinstance(self._answerer, Streaming):
                stream = self._answerer.submit(request, listen)
            else:
                listen(self._answerer.answer([request])[0])
        except ValueError as error:  # what was asked before it is still answered
            listen(error)
        return reply, stream


def _named(error: Exception, question: Question) -> Exception:
    """A refusal with the question that it is about."""
    if not isinstance(error, ValueError):
        return error
    named = BenchmarkError(f"question {question.id!r} can not be asked: {error}")
    named.__cause__ = error
    return named


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


def _owner(pixels):
    """The array whose memory a picture is a view of."""
    while getattr(pixels, "base", None) is not None and hasattr(pixels.base, "nbytes"):
        pixels = pixels.base
    return pixels
