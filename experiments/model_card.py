"""The README.md of an export: what was trained, how, on what, how well it does, how to load it.

* Written from the run's own files alone. A number that is not in them is not on the card.
* The front matter is what the Hugging Face hub reads; `huggingface_hub` writes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from envs_jax.world import slots_of
from experiments.build import Parts
from vldac.policy import Policy
from vldac.report.numbers import duration, number_with_interval, percent, rate_with_interval
from vldac.report.success import details, headline, results

METHOD = "[VL-DAC](https://arxiv.org/abs/2508.04280) (vision-language decoupled actor-critic)"


def model_card(parts: Parts, summary: Mapping[str, Any], contents: Mapping[str, str]) -> str:
    """The whole card, Markdown.

    Args:
      parts: of the run.
      summary: of the run, see `vldac.metrics.write_summary`; what is missing in it is not told.
      contents: file or folder of the export -> what it is.
    """
    config = parts.config
    name = config.name or "a VL-DAC run"
    sections = [
        f"# {name}",
        _introduction(parts),
        "## What is here\n\n" + "\n".join(f"- `{file}`: {what}" for file, what in contents.items()),
        "## How well it does\n\n" + _measurements(parts, summary),
        "## What it took\n\n" + _cost(summary),
        "## How to load it\n\n" + _loading(parts, contents),
        "## How it is asked, and how it answers\n\n" + _format(parts),
        "## Limits and safeguards\n\n" + _limits(parts),
        "## Licence\n\n" + _licence_text(parts),
    ]
    return f"---\n{front_matter(parts).to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def front_matter(parts: Parts) -> ModelCardData:
    """What the hub reads."""
    lora = bool(parts.config.model.lora.rank)
    tags = ["vl-dac", "reinforcement-learning", "vision-language-model", "jax", *(["lora"] if lora else [])]
    return ModelCardData(
        base_model=base_id(parts),
        library_name="peft" if lora else "transformers",
        pipeline_tag="image-text-to-text",
        tags=tags,
        **licence(parts.checkpoint),
    )


def base_id(parts: Parts) -> str | None:
    """The base model's id on the hub; None if it is a folder, or there is none."""
    path = parts.config.model.path
    return path if path and not Path(path).expanduser().exists() else None


def licence(base: Path | None) -> dict[str, str]:
    """What the base model's own card says of its licence; empty if it says nothing."""
    try:
        text = (base / "README.md").read_text(encoding="utf-8") if base is not None else ""
        said = ModelCard(text).data.to_dict() if text.startswith("---") else {}
    except Exception:  # someone else's file: no card, no UTF-8, no YAML, no such fields
        return {}
    fields = ("license", "license_name", "license_link")
    return {field: said[field] for field in fields if isinstance(said.get(field), str)}


def _introduction(parts: Parts) -> str:
    config = parts.config
    lora, base = config.model.lora, base_name(parts)
    if base is None:
        start = f"A {config.model.preset} model of the Qwen2-VL architecture, its weights drawn afresh,"
    else:
        start = f"{base},"
    if lora.rank:
        what = f"with LoRA (rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.target_modules)}"
        what += " of decoder and vision tower)" if lora.vision else " of the decoder)"
    else:
        what = "in full"
    lines = [f"{start} trained {what} to act in the simulated world `{config.world}` with {METHOD}."]
    if config.imitation.steps:
        lines.append(
            f"Before reinforcement learning it was taught by {config.imitation.steps} supervised updates on a "
            'scripted expert\'s answers; "before RL" below means after them.'
        )
    return " ".join(lines)


def base_name(parts: Parts) -> str | None:
    """What to call the base model; of a folder only its name. None if the model was drawn afresh."""
    if not parts.config.model.path:
        return None
    return base_id(parts) or Path(parts.config.model.path).expanduser().resolve().name


def _measurements(parts: Parts, summary: Mapping[str, Any]) -> str:
    found = results(summary)
    if not found:
        return "The run has not been evaluated."
    lines = [f"{headline(found[0])}. {' '.join(details(found[0]))}", ""]
    lines += ["| world | policy | success | steps to the goal | return | answers without an action |"]
    lines += ["|---|---|---|---|---|---|"]
    for result in found:
        world = result.world + (" (trained on)" if result.trained else " (never trained on)")
        for row in result.rows:
            figures = (
                rate_with_interval(row.success),
                number_with_interval(row.steps),
                number_with_interval(row.episode_return),
                percent(row.invalid),
            )
            lines.append(f"| {world} | {row.label} | {' | '.join(figures)} |")
    lines.append("")
    episodes = summary.get("episodes")
    many = f"{episodes} fresh episodes" if episodes else "fresh episodes"
    lines.append(f"Each policy was measured on {many} of each world; in brackets are 95 % intervals. One seed.")
    return "\n".join(lines)


def _cost(summary: Mapping[str, Any]) -> str:
    lines = []
    if summary.get("model"):
        lines.append(f"- Model: {summary['model']}")
    if summary.get("iterations") is not None and summary.get("env_steps") is not None:
        stopped = " (stopped before its end)" if summary.get("interrupted") else ""
        lines.append(f"- Iterations: {summary['iterations']}{stopped}")
        lines.append(f"- Environment steps: {summary['env_steps']:,}")
    seconds = summary.get("seconds") or {}
    if seconds.get("total") is not None:
        phases = [f"{name} {duration(value)}" for name, value in seconds.items() if name != "total"]
        lines.append(f"- Time: {duration(seconds['total'])}" + (f" ({', '.join(phases)})" if phases else ""))
    versions = dict(summary.get("versions") or {})
    if device := versions.pop("device", None):
        lines.append(f"- Hardware: {device}")
    if versions:
        lines.append(f"- Software: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    return "\n".join(lines) or "The run has not been summed up."


def _loading(parts: Parts, contents: Mapping[str, str]) -> str:
    blocks = []
    if "model/" in contents:
        blocks.append(
            "transformers:\n\n```python\nfrom transformers import AutoModelForImageTextToText, AutoTokenizer\n\n"
            'model = AutoModelForImageTextToText.from_pretrained("model")\n'
            'tokenizer = AutoTokenizer.from_pretrained("model")\n```'
        )
        blocks.append(
            f"vldac, to train on from here: `{training_on(parts)}`; in Python:\n\n"
            "```python\nfrom pathlib import Path\n\nfrom vldac.models import weights\n\n"
            'config = weights.read_config(Path("model"))\n'
            'params = weights.load_params(Path("model"), config)\n```'
        )
    if "adapter/" in contents:
        base = "base" if parts.checkpoint is None else base_id(parts) or f"FOLDER/{base_name(parts)}"
        blocks.append(
            "peft, on the base model:\n\n```python\nfrom peft import PeftModel\n"
            "from transformers import AutoModelForImageTextToText\n\n"
            f'base = AutoModelForImageTextToText.from_pretrained("{base}")\n'
            'model = PeftModel.from_pretrained(base, "adapter")\n```'
        )
    blocks.append(
        "The critic takes the hidden state of the last prompt token after the decoder's final norm (float32) and "
        "sends it through linear layers with a ReLU after each but the last; `value_head.json` has the sizes and "
        "the order. In Python: `vldac.models.export.load_value_head(folder)`."
    )
    return "In this folder.\n\n" + "\n\n".join(blocks)


def training_on(parts: Parts) -> str:
    """The command that trains the exported model on in the run's own world; to be given in the export's folder."""
    config = parts.config
    words = ["--config", "config.json", "--model.path", "model", "--name", f"{config.name or 'run'}-on"]
    if config.imitation.steps:  # it has been taught
        words += ["--imitation.steps", "0"]
    if config.model.max_pixels:  # the checkpoint has its own
        words += ["--model.max-pixels", "0"]
    if config.model.initializer_range:
        words += ["--model.initializer-range", "0"]
    return f"python -m experiments.run {shlex.join(words)}"


def _format(parts: Parts) -> str:
    policy, action = parts.policies[parts.config.world], parts.worlds[parts.config.world].actions[0]
    return (
        f"{policy.config.history} frame(s) of the episode, the present one last, and the task; the chat template "
        "is the tokenizer's. The prompt, every image placeholder written once:\n\n"
        f"```text\n{prompt_text(parts, policy)}\n```\n\n"
        "The answer is one JSON object with thoughts and an action, for example\n\n"
        f'```json\n{{"thoughts": "what you see", "action": "{action}"}}\n```\n\n'
        f"of at most {policy.config.max_tokens} tokens, sampled at temperature {policy.config.temperature:g}."
    )


def prompt_text(parts: Parts, policy: Policy) -> str:
    """The prompt as text, image placeholders written once."""
    prompt = policy.prompt

    def text(ids: Any) -> str:
        return parts.tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    visual = prompt.span.tokens
    frame = text([*prompt.frame[: prompt.before + 1], *prompt.frame[prompt.before + visual :]])
    frames = text(prompt.between).join([frame] * prompt.history)
    described = " <the world's own text>" if prompt.text_slots else ""
    return text(prompt.prefix) + frames + text(prompt.behind) + described + text(prompt.suffix)


def _limits(parts: Parts) -> str:
    world = parts.worlds[parts.config.world]
    policy = parts.policies[parts.config.world]
    height, width, _ = world.image_shape
    actions = ", ".join(f"`{action}`" for action in world.actions)
    slots = ", ".join(f"{len(slot.words)} in `{{{name}}}`" for name, slot in slots_of(world).items())
    actions += f" (words that may stand there: {slots})" if slots else ""
    if policy.config.decoding == "grammar":
        how = "In training it could write nothing but answers that name one of these."
    else:
        how = (
            "In training it wrote freely, and an answer that names none of them was read as no action. Whoever "
            "uses it should do the same."
        )
    return (
        f"- Trained in simulation only, on one world whose frames have {height}x{width} pixels. Nothing is known "
        "of it in any other place, the physical world included, but what the table above says.\n"
        f"- It may say {len(world.actions)} actions: {actions}. {how}\n"
        "- Its thoughts are what raised its reward along with its actions. They need not be true, nor the reason "
        "for what it does.\n"
        "- What the base model knew beside this task was not measured after the training.\n"
        "- Not meant to steer anything that can do harm."
    )


def _licence_text(parts: Parts) -> str:
    said = licence(parts.checkpoint)
    if parts.checkpoint is None:
        return "The weights were drawn afresh: there is no base model whose licence would bind them."
    if not said:
        return "See base model."
    link = f" ({said['license_link']})" if "license_link" in said else ""
    return f"That of the base model: {said.get('license_name') or said.get('license')}{link}."
