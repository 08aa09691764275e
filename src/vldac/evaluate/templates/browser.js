"use strict";
// Shows one sample at a time, of those that the filters leave. Everything is set as text: it may hold anything.
const { items, videos, pictures, outcomes } = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const [list, detail, task, outcome, search, count] = ["list", "detail", "task", "outcome", "search", "count"].map(at);
const make = (tag, name = "", text = "") => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
};

const choices = (select, all, values) => {
  select.append(new Option(`${all} (${items.length})`, ""));
  for (const [value, number] of values) select.append(new Option(`${value} (${number})`, value));
};
const tally = (of) => {
  const numbers = new Map();
  for (const item of items) numbers.set(of(item), (numbers.get(of(item)) ?? 0) + 1);
  return numbers;
};
choices(task, "all tasks", [...tally((item) => item.task)].sort());
const numbers = tally((item) => item.outcome);
choices(outcome, "all outcomes", outcomes.filter((name) => numbers.has(name)).map((name) => [name, numbers.get(name)]));

const haystack = (item) =>
  (item.hay ??= [item.id, item.truth ?? "", ...item.turns.flatMap((turn) => turn.parts.filter((part) => typeof part === "string")),
    ...item.answers.map((answer) => answer.text)].join("\n").toLowerCase());
const style = (name) => name.replace(" ", "-");

let shown = [];
let current = -1;

const picture = (name) => {
  const image = make("img");
  image.loading = "lazy";
  image.alt = "picture that the model saw";
  image.src = pictures ? pictures[name] ?? "" : `pictures/${name}`;
  // Small ones are enlarged dot by dot.
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 160));
  return image;
};
const said = (text, box = "") => {
  const element = make("p", `said ${box}`, text);
  element.dir = "auto";
  return text === "" ? make("p", "nothing", "nothing") : element;
};
const turnOf = (turn) => {
  const block = make("div", "turn");
  block.append(make("small", "", turn.role));
  for (const part of turn.parts) {
    if (typeof part === "string") block.append(said(part));
    else if (part.picture) block.append(picture(part.picture));
    else {
      const frames = make("div", "frames");
      videos[part.video].forEach((name, i) => {
        const figure = make("figure");
        const place = part.fps ? ` · ${(i / part.fps).toFixed(1)} s` : "";
        figure.append(picture(name), make("figcaption", "", `frame ${i + 1}${place}`));
        frames.append(figure);
      });
      block.append(frames);
    }
  }
  return block;
};
const answerOf = (answer) => {
  const block = make("div");
  block.append(make("h4", "", answer.label), said(answer.text, "box"));
  block.append(make("h4", "", "Taken from it"), answer.extracted === null ? make("p", "nothing", "nothing") : said(answer.extracted, "box"));
  block.append(make("p", "meta", answer.facts));
  if (answer.notes) block.append(make("p", "meta", answer.notes));
  return block;
};
const show = (place) => {
  list.children[current]?.classList.remove("current");
  current = place;
  detail.replaceChildren();
  const item = items[shown[current]];
  if (!item) {
    detail.append(make("p", "nothing", "No sample is left by these filters."));
    return;
  }
  const row = list.children[current];
  row.classList.add("current");
  const above = row.offsetTop - list.offsetTop;
  if (above < list.scrollTop || above + row.offsetHeight > list.scrollTop + list.clientHeight)
    list.scrollTop = above - list.clientHeight / 3;
  const meta = make("p", "meta");
  meta.append(make("span", `chip ${style(item.outcome)}`, item.outcome), ` ${item.task} · ${current + 1} of ${shown.length}`);
  detail.append(make("h3", "", item.id), meta);
  const answers = make("div", "answers");
  answers.append(...item.answers.map(answerOf));
  detail.append(answers);
  if (item.truth !== null) detail.append(make("h4", "", "Truth"), said(item.truth, "box"));
  detail.append(make("h4", "", "Prompt"), ...item.turns.map(turnOf));
};
const go = (step) => {
  if (shown.length) {
    show(Math.min(shown.length - 1, Math.max(0, current + step)));
    location.hash = encodeURIComponent(items[shown[current]].id);
  }
};
const filter = () => {
  const words = search.value.trim().toLowerCase();
  const kept = items[shown[current]];
  shown = [];
  items.forEach((item, i) => {
    if ((!task.value || item.task === task.value) && (!outcome.value || item.outcome === outcome.value) &&
        (!words || haystack(item).includes(words))) shown.push(i);
  });
  list.replaceChildren(...shown.map((i, place) => {
    const row = make("li", style(items[i].outcome));
    const { id, task: kind } = items[i];
    row.append(make("b", "", id.includes(kind) ? id : `${id} · ${kind}`), make("span", "", items[i].answers.map((answer) => answer.text.slice(0, 80) || "nothing").join(" | ")));
    row.addEventListener("click", () => go(place - current));
    return row;
  }));
  count.textContent = `${shown.length} of ${items.length}`;
  current = -1;
  show(Math.max(0, shown.findIndex((i) => items[i] === kept)));
};
for (const control of [task, outcome]) control.addEventListener("change", filter);
let pause = null;
search.addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(filter, 120);
});
at("previous").addEventListener("click", () => go(-1));
at("next").addEventListener("click", () => go(1));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const step = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 }[event.key];
  if (step) go(step);
  else if (event.key === "/") search.focus();
  else return;
  event.preventDefault();
});
const linked = () => {
  let id = "";
  try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
  const place = shown.findIndex((i) => items[i].id === id);
  if (place >= 0 && place !== current) show(place);
};
addEventListener("hashchange", linked);
filter();
linked();
