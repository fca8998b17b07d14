"use strict";
// Draws the figures: rows from the embedded columns, colours from the page's palette.
(() => {
  const { joins, tables, figures } = factlife.data("charts");
  const decoded = {};
  const chosen = {}; // figure -> the scope its reader chose
  const drawn = new Set(); // charts that are drawn, or about to be

  const rowsOf = (name) => (decoded[name] ??= decode(tables[name]));

  function decode(table) {
    const columns = Object.entries(table);
    const first = columns[0][1];
    const rows = Array.from({ length: (first.codes ?? first).length }, () => ({}));
    for (const [name, column] of columns) {
      rows.forEach((row, i) => {
        if (Array.isArray(column)) row[name] = column[i];
        else row[name] = column.codes[i] === null ? null : column.names[column.codes[i]];
      });
    }
    for (const [name, column] of columns) {
      if (name in joins && Array.isArray(column)) {
        const other = rowsOf(joins[name]);
        for (const row of rows) Object.assign(row, other[row[name]]);
      }
    }
    return rows;
  }

  function select(id, panel) {
    const figure = figures[id];
    const where = { ...figure.where, ...(panel === undefined ? {} : figure.panels[panel].where) };
    if (chosen[id] !== undefined) where.scope = [chosen[id]];
    const tests = Object.entries(where).map(([column, allowed]) => [column, new Set(allowed)]);
    return rowsOf(figure.dataset).filter((row) => tests.every(([column, allowed]) => allowed.has(row[column])));
  }

  // ---- drawing ------------------------------------------------------------------------------

  async function draw(target) {
    drawn.add(target);
    const id = target.dataset.figure;
    const panel = target.dataset.panel === undefined ? undefined : Number(target.dataset.panel);
    const spec = { ...figures[id].spec };
    if (panel !== undefined) {
      const { height, title } = figures[id].panels[panel];
      if (height) spec.height = height;
      spec.description = `${title}: ${spec.description}`;
    }
    await factlife.draw(target, spec, select(id, panel));
  }

  async function drawAll(targets) {
    for (const target of targets) await draw(target);
  }

  const charts = (id) => [...document.querySelectorAll(id ? `.chart[data-figure="${id}"]` : ".chart")];

  // ---- data of a chart ----------------------------------------------------------------------

  function listed(id) {
    const { panels } = figures[id];
    return panels.length ? panels.flatMap((_, i) => select(id, i)) : select(id);
  }

  function fill(details) {
    const id = details.dataset.figure;
    factlife.fillData(details, id, listed(id), figures[id].columns);
  }

  for (const details of document.querySelectorAll("details.data")) {
    details.addEventListener("toggle", () => details.open && fill(details));
  }
  for (const menu of document.querySelectorAll("select[data-figure]")) {
    const id = menu.dataset.figure;
    menu.addEventListener("change", async () => {
      chosen[id] = menu.value;
      await drawAll(charts(id));
      const details = document.querySelector(`details.data[data-figure="${id}"]`);
      if (details.open) fill(details);
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(charts().filter((c) => drawn.has(c))));

  // ---- on opening ---------------------------------------------------------------------------

  // What the reader sees is drawn at once, the rest in the pauses between.
  const missing = () => charts().filter((c) => !drawn.has(c));
  const pause = () => new Promise((done) => setTimeout(done));

  function nearest() {
    const distance = (c) => {
      const { top, bottom } = c.getBoundingClientRect();
      return top > innerHeight ? top - innerHeight : Math.max(0, -bottom);
    };
    const found = missing().map((c) => [distance(c), c]);
    return found.length ? found.reduce((a, b) => (b[0] < a[0] ? b : a)) : undefined;
  }

  async function open() {
    for (let next; (next = nearest()); ) {
      if (next[0] > 0 && !document.documentElement.dataset.opened) {
        document.documentElement.dataset.opened = Math.round(performance.now());
      }
      await draw(next[1]);
      await pause();
    }
    document.documentElement.dataset.opened ??= Math.round(performance.now());
    document.documentElement.setAttribute("data-drawn", "yes");
  }

  for (const figure of document.querySelectorAll("figure")) {
    const inside = [...figure.querySelectorAll(".chart")];
    if (!inside.length && !figure.querySelector(".drawing")) continue;
    const name = figure.id.replace(/^figure-/, "") || "figure";
    factlife.offerPictures(figure, name, () => drawAll(inside.filter((c) => !drawn.has(c))));
  }
  addEventListener("beforeprint", () => drawAll(missing()));
  open();
})();
