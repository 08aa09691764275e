"""VisualWebBench's prompts, word for word, "candicates" included: utils/prompts.py and run.py (Apache-2.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BOX = (
    "You are given a screenshot of a webpage with a red rectangle bounding box. The [x1, y1, x2, y2] coordinates "
    "of the bounding box is {bbox}.\n"
)
_LABELS = "In this website screenshot, I have labeled IDs for some HTML elements as candicates. Tell me which one "
_LETTER = (
    "You should directly tell me your choice in a single uppercase letter, and do not output any explanation or "
    "any other contents.\n"
)
PROMPTS = {
    "web_caption": (
        "You are given a screenshot of a webpage. Please generate the meta web description information of this "
        'webpage, i.e., content attribute in <meta name="description" content=""> HTML element.\n\n'
        "You should use the following format, and do not output any explanation or any other contents:\n"
        '<meta name="description" content="YOUR ANSWER">\n'
    ),
    "heading_ocr": (
        "You are given a screenshot of a webpage. Please generate the main text within the screenshot, which can "
        "be regarded as the heading of the webpage.\n\n"
        "You should directly tell me the main content, and do not output any explanation or any other contents.\n"
    ),
    "element_ocr": (
        f"{_BOX}"
        "Please perform OCR in the bounding box and recognize the text content within the red bounding box.\n\n"
        "You should use the following format:\n"
        "The text content within the red bounding box is: <YOUR ANSWER>\n"
    ),
    "webqa": (
        "{question}\n"
        "You should directly tell me your answer in the fewest words possible, and do not output any explanation "
        "or any other contents.\n"
    ),
    "element_ground": f"{_LABELS}best matches the description: {{elem_desc}}\n\n{_LETTER}",
    "action_prediction": (
        f"{_BOX}"
        "Please select the best webpage description that matches the new webpage after clicking the selected "
        f"element in the bounding box:\n{{options}}\n\n{_LETTER}"
    ),
    "action_ground": f"{_LABELS}I should click to complete the following task: {{instruction}}\n\n{_LETTER}",
}


def prompt(task: str, row: Mapping[str, Any]) -> str:
    """The text that follows the screenshot, with columns of the data set filled in as Python writes them."""
    return PROMPTS[task].format_map(row)
