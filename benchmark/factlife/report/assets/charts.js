"use strict";
// Draws the figures: rows from the embedded columns, colours from the page's palette.
(() => {
  const { joins, tables, figures } = factlife.data("charts");
  const decoded = {};
  const chosen = {}; // figure -> the scope its reader chose
  const views = new Map(); // element -> the Vega view in it

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

  // ---- theme --------------------------------------------------------------------------------

  function palette() {
    const style = getComputedStyle(document.documentElement);
    return (name) => style.getPropertyValue(`--${name}`).trim();
  }

  function painted(value, colour) {
    if (typeof value === "string") {
      const name = /^var\(--([a-z0-9-]+)\)$/.exec(value);
      return name ? colour(name[1]) : value;
    }
    if (Array.isArray(value)) return value.map((v) => painted(v, colour));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, painted(v, colour)]));
    }
    return value;
  }

  function config(colour) {
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent",
      font,
      view: { stroke: null },
      axis: {
        labelColor: colour("muted"), titleColor: colour("muted"), titleFontWeight: 500,
        gridColor: colour("grid"), domainColor: colour("line"), tickColor: colour("line"),
        labelFontSize: 11, titleFontSize: 11.5, titlePadding: 8,
      },
      text: { font },
    };
  }

  // ---- drawing ------------------------------------------------------------------------------

  async function draw(target, colour) {
    const id = target.dataset.figure;
    const panel = target.dataset.panel === undefined ? undefined : Number(target.dataset.panel);
    const rows = select(id, panel);
    views.get(target)?.finalize();
    views.delete(target);
    if (!rows.length) {
      target.replaceChildren(factlife.element("p", "No values for these facts.", { class: "missing" }));
      return;
    }
    const spec = painted(figures[id].spec, colour);
    if (panel !== undefined) {
      const { height, title } = figures[id].panels[panel];
      if (height) spec.height = height;
      spec.description = `${title}: ${spec.description}`;
    }
    spec.datasets = { ...spec.datasets, rows };
    try {
      views.set(target, await vegaEmbed(target, spec, {
        mode: "vega-lite", renderer: "svg", ast: true, actions: false, config: config(colour),
        tooltip: { theme: "custom" },
      }));
    } catch (error) {
      target.replaceChildren(factlife.element("p", `This chart could not be drawn: ${error.message}`, { class: "missing" }));
      console.error(id, error);
    }
  }

  async function drawAll(targets) {
    const colour = palette();
    for (const target of targets) await draw(target, colour);
  }

  const charts = (id) => [...document.querySelectorAll(id ? `.chart[data-figure="${id}"]` : ".chart")];

  // ---- data of a chart ----------------------------------------------------------------------

  function listed(id) {
    const { panels } = figures[id];
    return panels.length ? panels.flatMap((_, i) => select(id, i)) : select(id);
  }

  function fill(details) {
    const id = details.dataset.figure, { columns } = figures[id], rows = listed(id);
    const button = factlife.element("button", "Download as CSV", { type: "button" });
    button.addEventListener("click", () => factlife.save(`${id}.csv`, "text/csv", factlife.csv(rows, columns)));
    const table = factlife.element("table");
    const head = table.createTHead().insertRow();
    for (const name of columns) head.append(factlife.element("th", name, { scope: "col" }));
    const body = table.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      for (const name of columns) line.insertCell().textContent = row[name] ?? "–";
    }
    const box = factlife.element("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": "Data of this chart" });
    box.append(table);
    details.replaceChildren(details.querySelector("summary"), button, box);
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
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(charts()));
  drawAll(charts()).then(() => document.documentElement.setAttribute("data-drawn", "yes"));
})();
