"use strict";

// Players: one button each, one sound at a time. Without this script the browser's own controls stay.
for (const player of document.querySelectorAll(".player")) {
  const audio = player.querySelector("audio");
  const button = player.querySelector("button");
  audio.hidden = true;
  button.hidden = false;
  button.addEventListener("click", () => {
    if (!audio.paused) {
      audio.pause();
      return;
    }
    for (const other of document.querySelectorAll("audio")) {
      if (other !== audio) {
        other.pause();
      }
    }
    audio.currentTime = 0;
    audio.play().catch(() => {
      // a browser that cannot decode it may still offer to save it
      audio.hidden = false;
    });
  });
  audio.addEventListener("play", () => button.classList.add("playing"));
  audio.addEventListener("pause", () => {
    button.classList.remove("playing");
    button.style.removeProperty("--played");
  });
  audio.addEventListener("timeupdate", () => {
    if (!audio.paused && audio.duration) {
      button.style.setProperty("--played", `${(100 * audio.currentTime) / audio.duration}%`);
    }
  });
}

// Filters: a sample is shown when it has what every chosen menu asks for.
const filters = document.querySelector(".filters");
if (filters) {
  const samples = [...document.querySelectorAll(".samples article")];
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(filters));
    for (const sample of samples) {
      const { task, topic, traits } = sample.dataset;
      const isShown =
        (!wanted.task || wanted.task === task) &&
        (!wanted.topic || wanted.topic === topic) &&
        (!wanted.trait || traits.split(" ").includes(wanted.trait));
      sample.hidden = !isShown;
      if (sample.hidden) {
        sample.querySelectorAll("audio").forEach((audio) => audio.pause());
      }
    }
    const shown = samples.filter((sample) => !sample.hidden).length;
    filters.querySelector("output").textContent = `${shown} of ${samples.length}`;
  };
  filters.hidden = false;
  filters.addEventListener("change", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  // after a reload the browser restores the menus
  window.addEventListener("pageshow", apply);
}
