"""VisualWebBench's scores: seven tasks on screenshots of web pages.

`score` gives what the official code gives, the post-processing of its adapter for OpenAI and LLaVA models
included; `adapter` names the others that a published figure may come from.

* Texts (web_caption, heading_ocr, element_ocr; webqa by words alone) are compared by the ROUGE of PyPI's
  `rouge` 1.0.1, which is reproduced here rather than depended on: it is unmaintained (2021), pulls `six`, recurses
  past Python's limit on long texts, and its quirks are few. It splits sentences at every full stop, counts each
  n-gram once, minds case and punctuation, and reaches 99.9999995 at most.
* Choices (element_ground, action_prediction, action_ground) are letters A to H. "B", "b", "B. It", "(B)" and
  "it is B" are read; "B)", "**B**", "Option:B" and "B" before a line break are not, and are wrong.
* A response of full stops alone has no sentence. The official code then stops without a score, in webqa leaves
  the question out of the mean. Here it counts as an empty one in the former, and is left out in the latter.

Sources, whose behaviour is reproduced: VisualWebBench utils/eval_utils.py and model_adapters/ (Apache-2.0);
pltrdy/rouge 1.0.1 (Apache-2.0).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

TEXT = ("web_caption", "heading_ocr", "element_ocr")
CHOICE = ("element_ground", "action_prediction", "action_ground")
TASKS = (*TEXT, "webqa", *CHOICE)
METRIC = {**dict.fromkeys(TEXT, "rouge_l"), "webqa": "f1", **dict.fromkeys(CHOICE, "accuracy")}
"""Of each task's figures the one that counts: the benchmark's own is the mean of the seven."""
ADAPTERS = ("openai", "qwen_vl", "none")


def score(
    task: str, responses: Sequence[str], answers: Sequence[Any], adapter: str = "openai"
) -> dict[str, float]:
    """The official figures of one task over all its questions, in percent.

    Args:
      task: one of `TASKS`.
      responses: what the model wrote, untouched, a question each.
      answers: the data set's, in the same order: a string for `TEXT`, a list of strings for webqa, the index
        of the option for `CHOICE`.
      adapter: the post-processing, see `postprocess`.

    Returns:
      `rouge_1`, `rouge_2` and `rouge_l` (F scores) for `TEXT`, `f1` for webqa, `accuracy` for `CHOICE`.

    Raises:
      ValueError: an unknown task or adapter; no response, or not as many as answers; an answer of the wrong
        kind, or a text without a sentence to compare with.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; accepted: {', '.join(TASKS)}")
    if not responses or len(responses) != len(answers):
        raise ValueError(
            f"responses are {len(responses)} of {len(answers)}; accepted: one an answer, at least one"
        )
    _check_answers(task, answers)
    responses = [postprocess(task, response, adapter) for response in responses]
    if task in CHOICE:
        right = sum(choice(response) == answer for response, answer in zip(responses, answers, strict=True))
        return {"accuracy": right / len(responses) * 100}
    if task == "webqa":
        return {"f1": _webqa(responses, answers)}
    totals = dict.fromkeys(("rouge_1", "rouge_2", "rouge_l"), 0.0)
    for response, answer in zip(responses, answers, strict=True):
        if task == "element_ocr" and len(response) == 1:
            response = ""  # the official code takes one character for none
        said, meant = _sentences(response) or [[""]], _sentences(answer)
        totals["rouge_1"] += _rouge_n(said, meant, 1)
        totals["rouge_2"] += _rouge_n(said, meant, 2)
        totals["rouge_l"] += _rouge_l(said, meant)
    return {name: total / len(responses) * 100 for name, total in totals.items()}


def score_lmms_eval(task: str, responses: Sequence[str], answers: Sequence[Any]) -> dict[str, float]:
    """The figures of lmms-eval (0.7.3), which scores responses without post-processing.

    lmms-eval also stops every response after 16 tokens, which is up to the caller, and calls `f1` f1_score.
    Arguments, result and errors are `score`'s.
    """
    return score(task, responses, answers, adapter="none")


def postprocess(task: str, response: str, adapter: str = "openai") -> str:
    """What is left of a response before it is scored.

    Args:
      task: one of `TASKS`.
      response: what the model wrote.
      adapter: "openai" (and LLaVA's): a caption is the content of the meta element it was asked for, an element's
        text is what follows the first colon, without quotes. "qwen_vl": the same colon for webqa also, and of
        action_prediction the first letter. "none": untouched.

    Raises:
      ValueError: an unknown adapter.
    """
    if adapter not in ADAPTERS:
        raise ValueError(f"adapter is {adapter!r}; accepted: {', '.join(ADAPTERS)}")
    if adapter == "none":
        return response
    if task == "web_caption":
        # Greedy, and not across lines: two elements on a line are one, up to the last one's end.
        meta = re.search(r'<meta name="description" content="(.*)">', response)
        return meta[1] if meta else response
    if task == "element_ocr" or (task == "webqa" and adapter == "qwen_vl"):
        _, colon, text = response.partition(":")
        return text.strip().strip('"').strip("'") if colon else response
    if task == "action_prediction" and adapter == "qwen_vl":
        return response[:1].upper()
    return response


def extract(task: str, response: str, adapter: str = "openai") -> str | None:
    """What a response is taken for, as people read it: a letter for `CHOICE`, a text for others; None for nothing.

    Arguments and errors are `postprocess`'s.
    """
    text = postprocess(task, response, adapter)
    if task in CHOICE:
        place = choice(text)
        text = chr(ord("A") + place) if place >= 0 else ""
    return text or None


def _check_answers(task: str, answers: Sequence[Any]) -> None:
    for i, answer in enumerate(answers):
        if task in TEXT and (not isinstance(answer, str) or not _sentences(answer)):
            raise ValueError(f"answers[{i}] is {answer!r}; accepted for {task}: a string, not of full stops alone")
        if task == "webqa" and (isinstance(answer, str) or not all(isinstance(one, str) for one in answer)):
            raise ValueError(f"answers[{i}] is {answer!r}; accepted for webqa: a list of strings")
        if task in CHOICE and isinstance(answer, str):
            raise ValueError(f"answers[{i}] is {answer!r}; accepted for {task}: the index of the option")


def _webqa(responses: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Mean over questions of the best F1; a question that cannot be compared is left out, all of them give 0."""
    scores = []
    for response, golds in zip(responses, answers, strict=True):
        said = _sentences(response or " ")
        meant = [_sentences(gold) for gold in golds]
        if said and meant and all(meant):
            scores.append(max(_rouge_n(said, one, 1) for one in meant))
    return sum(scores) / len(scores) * 100 if scores else 0.0


def choice(response: str) -> int:
    """The index of the letter that the official parser takes a response for, -1 if it means none."""
    if len(response) == 1:
        letter = response.upper()
    elif re.match(r"[A-Z]\.", response):
        letter = response[0]
    else:
        text = " " + re.sub("[,.!?;:'\"]", "", response) + " "
        # The last one said, in brackets if any is. " A B " holds both: neighbours share the space between them.
        said = re.findall(r"\(([A-H])\)", text) or re.findall("(?<= )([A-H])(?= )", text)
        letter = said[-1] if said else ""
    return ord(letter) - ord("A") if len(letter) == 1 and "A" <= letter <= "Z" else -1


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence. A sentence of blanks is one word, the empty one; full stops alone are none.

    "Hi there. " is [["Hi", "there"], [""]], so that an empty response, [[""]], has a word in common with it.
    """
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def _f1(common: int, said: int, meant: int) -> float:
    precision = common / said if said else 0.0
    recall = common / meant if meant else 0.0
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _rouge_n(said: list[list[str]], meant: list[list[str]], n: int) -> float:
    a, b = _ngrams(said, n), _ngrams(meant, n)
    return _f1(len(a & b), len(a), len(b))


def _ngrams(sentences: list[list[str]], n: int) -> set[tuple[str, ...]]:
    """Each once, across the sentences' ends."""
    words = list(chain.from_iterable(sentences))
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _rouge_l(said: list[list[str]], meant: list[list[str]]) -> float:
    """By the words in any longest common subsequence of a sentence of each side, each word once."""
    common = {word for b in meant for a in said for word in _longest_common_subsequence(b, a)}
    return _f1(len(common), len(_ngrams(said, 1)), len(_ngrams(meant, 1)))


def _longest_common_subsequence(x: list[str], y: list[str]) -> list[str]:
    """One of the longest, the one that `rouge` finds: on a tie the last word of `y` goes first."""
    length = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            length[i + 1][j + 1] = length[i][j] + 1 if a == b else max(length[i][j + 1], length[i + 1][j])
    words, i, j = [], len(x), len(y)
    while i and j:
        if x[i - 1] == y[j - 1]:
            words.append(x[i - 1])
            i, j = i - 1, j - 1
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words[::-1]
