"use strict";
// Draws each figure in the colours of the page, and hides what has a key when the key is clicked.
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(figure) {
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--soft").trim();
  for (const axis of [...figure.below, ...figure.left]) axis.major_label_text_color = ink;
  for (const renderer of figure.renderers) {
    if (renderer.glyph.type === "Text" && renderer.name === "ink") renderer.glyph.text_color = { value: ink };
  }
}

for (const place of document.querySelectorAll("[data-item]")) {
  const item = JSON.parse(document.getElementById(place.dataset.item).textContent);
  Bokeh.embed.embed_item(item, place.id).then((views) => {
    const figure = [...views.roots][0].model;
    colour(figure);
    dark.addEventListener("change", () => colour(figure));
    for (const key of document.querySelectorAll(`[data-of="${place.id}"]`)) {
      key.addEventListener("click", () => {
        const shown = key.getAttribute("aria-pressed") !== "true";
        key.setAttribute("aria-pressed", String(shown));
        for (const { data_source: source } of figure.renderers) {
          const keys = source.data.key;
          if (!keys) continue;
          const alpha = keys.map((name, place) => (name === key.dataset.key ? Number(shown) : source.data.alpha[place]));
          source.data = { ...source.data, alpha };
        }
      });
    }
  });
}
