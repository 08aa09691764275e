"use strict";
// Turns each strip of frames into a player: a large frame, the words beside it, a button and a slider.
for (const episode of document.querySelectorAll(".episode")) {
  const frames = [...episode.querySelectorAll(".strip > li")];
  const make = (tag, name, text = "") => {
    const element = document.createElement(tag);
    element.className = name;
    element.textContent = text;
    return element;
  };
  const player = make("div", "player");
  const image = make("img", "screen");
  const words = make("div", "words");
  const controls = make("div", "controls");
  const button = make("button", "play", "▶");
  const slider = make("input", "slider");
  const counter = make("output", "counter");
  button.type = "button";
  slider.type = "range";
  slider.min = 0;
  slider.max = frames.length - 1;
  slider.value = 0;
  slider.setAttribute("aria-label", "step");

  let timer = null;
  const show = (index) => {
    const frame = frames[index];
    const picture = frame.querySelector("img");
    image.src = picture.src;
    image.alt = picture.alt;
    words.replaceChildren(...[...frame.querySelector(".said").childNodes].map((node) => node.cloneNode(true)));
    counter.textContent = `step ${frame.dataset.step} / ${episode.dataset.steps}`;
    slider.value = index;
    frames.forEach((other, i) => other.classList.toggle("current", i === index));
    const strip = frame.parentElement;
    strip.scrollLeft = frame.offsetLeft - strip.offsetLeft - (strip.clientWidth - frame.clientWidth) / 2;
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "▶";
    button.setAttribute("aria-label", "play");
  };
  const play = () => {
    if (Number(slider.value) === frames.length - 1) show(0);
    button.textContent = "❚❚";
    button.setAttribute("aria-label", "pause");
    timer = setInterval(() => {
      const next = Number(slider.value) + 1;
      if (next < frames.length) show(next);
      if (next >= frames.length - 1) stop();
    }, 550);
  };
  button.addEventListener("click", () => (timer === null ? play() : stop()));
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  frames.forEach((frame, i) => {
    frame.addEventListener("click", () => {
      stop();
      show(i);
    });
  });

  controls.append(button, slider, counter);
  player.append(image, words, controls);
  episode.querySelector(".strip").before(player);
  episode.classList.add("plays");
  if (episode.classList.contains("pixelated")) image.classList.add("pixelated");
  stop();
  show(0);
}
