"use strict";
// Search: a row is shown if its text has every word that was typed.
for (const box of document.querySelectorAll("input[type=search]")) {
  const rows = [...document.querySelectorAll("#rows details")].map((row) => [row, row.textContent.toLowerCase()]);
  const count = document.getElementById("found");
  box.closest("form").hidden = false;
  box.closest("form").addEventListener("submit", (event) => event.preventDefault());
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/);
    let found = 0;
    for (const [row, text] of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      found += !row.hidden;
    }
    count.textContent = `${found} of ${rows.length} rows`;
  });
}
// Label map: what the dot says is written below the map; arrow keys go to the nearest dot in their direction.
const map = document.getElementById("map");
if (map) {
  const dots = [...map.querySelectorAll("circle")];
  const readout = document.getElementById("readout");
  const at = (dot) => [dot.cx.baseVal.value, dot.cy.baseVal.value];
  const tell = (event) => {
    if (event.target.matches("circle")) readout.textContent = event.target.getAttribute("aria-label");
  };
  map.addEventListener("pointerover", tell);
  map.addEventListener("focusin", tell);
  map.addEventListener("click", tell);
  const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  map.addEventListener("keydown", (event) => {
    const way = ways[event.key];
    if (!way || !event.target.matches("circle")) return;
    event.preventDefault();
    const [x, y] = at(event.target);
    let best = null, least = Infinity;
    for (const dot of dots) {
      const [dx, dy] = [at(dot)[0] - x, at(dot)[1] - y];
      const along = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
      if (along > 0 && along + 2 * aside < least) [best, least] = [dot, along + 2 * aside];
    }
    if (best) {
      event.target.tabIndex = -1;
      best.tabIndex = 0;
      best.focus();
    }
  });
}
