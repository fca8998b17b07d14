"use strict";
// Sorting, filtering and downloads. Rows are in the page already; nothing is built from data.
(() => {
  const { rows } = factlife.data("board");
  const status = document.getElementById("status");
  const filter = document.getElementById("filter");
  const tables = [...document.querySelectorAll("table.board")];

  // ---- sorting ------------------------------------------------------------------------------

  const key = (body, column) => body.rows[0].cells[column].dataset.key;

  // Rows without a value stay at the end, whichever way the others run.
  function compare(a, b, sign) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
    return sign * a.localeCompare(b);
  }

  function sort(table, button) {
    const head = button.closest("th"), column = Number(button.dataset.column);
    const before = head.getAttribute("aria-sort");
    const upward = before === "none" ? button.dataset.first === "up" : before === "descending";
    for (const th of table.tHead.rows[0].cells) th.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", upward ? "ascending" : "descending");
    const bodies = [...table.tBodies];
    bodies.sort((a, b) => compare(key(a, column), key(b, column), upward ? 1 : -1));
    table.append(...bodies);
    status.textContent = `Sorted by ${button.textContent}, ${upward ? "ascending" : "descending"}.`;
  }

  for (const table of tables) {
    for (const button of table.tHead.querySelectorAll("button")) {
      button.disabled = false;
      button.addEventListener("click", () => sort(table, button));
    }
  }

  // ---- filter -------------------------------------------------------------------------------

  function narrow() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, all = 0;
    for (const table of tables) {
      for (const body of table.tBodies) {
        const texts = [...body.rows[0].cells].slice(0, 4).map((c) => c.textContent).join(" ").toLowerCase();
        body.hidden = !words.every((word) => texts.includes(word));
        shown += body.hidden ? 0 : 1;
        all += 1;
      }
    }
    status.textContent = words.length ? `${shown} of ${all} rows match.` : "";
  }
  filter.disabled = false;
  filter.addEventListener("input", narrow);

  // ---- downloads ----------------------------------------------------------------------------

  function flat(row) {
    const { metrics, ...rest } = row;
    for (const [name, m] of Object.entries(metrics)) {
      rest[name] = m.value;
      for (const part of ["ci_low", "ci_high", "n", "unit", "rank", "reason"]) rest[`${name}.${part}`] = m[part];
    }
    return rest;
  }

  function download(kind) {
    if (kind === "json") return factlife.save("leaderboard.json", "application/json", JSON.stringify(rows, null, 2));
    const lines = rows.map(flat);
    const columns = [...new Set(lines.flatMap((line) => Object.keys(line)))];
    factlife.save("leaderboard.csv", "text/csv", factlife.csv(lines, columns));
  }
  for (const button of document.querySelectorAll("[data-download]")) {
    button.disabled = false;
    button.addEventListener("click", () => download(button.dataset.download));
  }
  document.documentElement.setAttribute("data-drawn", "yes");
})();
