"use strict";
// How every chart looks and what can be done with it, on reports and on the board: colours of the
// page's palette, drawing with Vega, the data behind a figure, and the figure as SVG or PNG.
Object.assign(factlife, (() => {
  const views = new Map(); // element -> the Vega view in it

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

  const note = (text) => factlife.element("p", text, { class: "missing" });

  // Draws rows into an element; the specification is painted in the present colours.
  async function draw(target, bare, rows) {
    views.get(target)?.finalize();
    views.delete(target);
    if (!rows.length) return target.replaceChildren(note("No values for these facts."));
    const colour = palette(), spec = painted(bare, colour);
    spec.datasets = { ...spec.datasets, rows };
    try {
      views.set(target, await vegaEmbed(target, spec, {
        mode: "vega-lite", renderer: "svg", ast: true, actions: false, config: config(colour),
        tooltip: { theme: "custom" },
      }));
    } catch (error) {
      target.replaceChildren(note(`This chart could not be drawn: ${error.message}`));
      console.error(error);
    }
  }

  // ---- data of a figure ---------------------------------------------------------------------

  function fillData(details, name, rows, columns) {
    const button = factlife.element("button", "Download as CSV", { type: "button" });
    button.addEventListener("click", () => factlife.save(`${name}.csv`, "text/csv", factlife.csv(rows, columns)));
    const table = factlife.element("table");
    const head = table.createTHead().insertRow();
    for (const name_ of columns) head.append(factlife.element("th", name_, { scope: "col" }));
    const body = table.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      for (const name_ of columns) line.insertCell().textContent = row[name_] ?? "–";
    }
    const box = factlife.element("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": "Data of this chart" });
    box.append(table);
    details.replaceChildren(details.querySelector("summary"), button, box);
  }

  // ---- a figure as a picture ----------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";
  const LOOKS = [
    "fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap", "opacity",
    "font-family", "font-size", "font-weight", "font-style", "text-anchor", "dominant-baseline", "text-decoration-line",
  ];
  const UNSEEN = "svg, details, button, input, .hidden, .downloads, .readout";
  const MARGIN = 12;

  function shape(tag, attributes, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // A copy of a drawing that needs no style sheet.
  function frozen(svg) {
    const copy = svg.cloneNode(true);
    const pairs = [[svg, copy]], gone = [];
    while (pairs.length) {
      const [from, to] = pairs.pop();
      const style = getComputedStyle(from);
      if (style.display === "none" || style.visibility === "hidden") { gone.push(to); continue; }
      for (const look of LOOKS) {
        const value = style.getPropertyValue(look);
        if (value) to.setAttribute(look, value);
      }
      for (const name of ["class", "style", "tabindex", "role", "id"]) to.removeAttribute(name);
      [...from.children].forEach((child, i) => pairs.push([child, to.children[i]]));
    }
    for (const node of gone) node.remove();
    return copy;
  }

  // The lines of a text as they stand on the page: [text, left, top, height].
  function linesOf(node) {
    const lines = [], range = document.createRange();
    for (const word of node.data.matchAll(/\S+/g)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const at = range.getBoundingClientRect();
      if (!at.width) continue;
      const last = lines[lines.length - 1];
      if (last && Math.abs(last.top - at.top) < at.height / 2) last.text += ` ${word[0]}`;
      else lines.push({ text: word[0], left: at.left, top: at.top, height: at.height });
    }
    return lines;
  }

  function* written(figure) {
    const walker = document.createTreeWalker(figure, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode;
      const menu = node.parentElement.closest("option");
      if (menu || node.parentElement.closest(UNSEEN)) continue;
      for (const line of linesOf(node)) yield [line, node.parentElement];
    }
    for (const menu of figure.querySelectorAll("select")) {
      const { left, top, height } = menu.getBoundingClientRect();
      yield [{ text: menu.selectedOptions[0]?.textContent ?? "", left: left + 6, top, height }, menu];
    }
  }

  // The figure as one drawing: charts, legend and words where they stand on the page.
  function picture(figure) {
    const colour = palette(), box = figure.getBoundingClientRect();
    const root = shape("svg", { xmlns: SVG }), ground = shape("rect", { fill: colour("bg") });
    root.append(ground);
    let right = box.width, bottom = 0;
    const reach = (x, y) => { right = Math.max(right, x); bottom = Math.max(bottom, y); };
    for (const block of figure.querySelectorAll(".swatch-box, .role-letter, .dot")) {
      const at = block.getBoundingClientRect(), fill = getComputedStyle(block).backgroundColor;
      root.append(shape("rect", { x: at.left - box.left, y: at.top - box.top, width: at.width, height: at.height, rx: 2, fill }));
    }
    for (const svg of figure.querySelectorAll("svg")) {
      if (svg.closest("details") || svg.parentElement.closest("svg")) continue;
      const at = svg.getBoundingClientRect(), copy = frozen(svg);
      if (!at.width) continue;
      for (const [name, value] of [["x", at.left - box.left], ["y", at.top - box.top], ["width", at.width], ["height", at.height]]) copy.setAttribute(name, value);
      if (!copy.hasAttribute("viewBox")) copy.setAttribute("viewBox", `0 0 ${at.width} ${at.height}`);
      reach(at.right - box.left, at.bottom - box.top);
      root.append(copy);
    }
    for (const [line, parent] of written(figure)) {
      const style = getComputedStyle(parent);
      const x = line.left - box.left, y = line.top - box.top + line.height / 2;
      root.append(shape("text", {
        x, y, "dominant-baseline": "central", fill: style.color, "font-family": style.fontFamily,
        "font-size": style.fontSize, "font-weight": style.fontWeight, "font-style": style.fontStyle,
      }, line.text));
      reach(0, line.top - box.top + line.height);
    }
    const [width, height] = [Math.ceil(right) + 2 * MARGIN, Math.ceil(bottom) + 2 * MARGIN];
    const frame = { x: -MARGIN, y: -MARGIN, width, height };
    for (const [name, value] of Object.entries(frame)) ground.setAttribute(name, value);
    root.setAttribute("viewBox", `${-MARGIN} ${-MARGIN} ${width} ${height}`);
    root.setAttribute("width", width);
    root.setAttribute("height", height);
    return { text: new XMLSerializer().serializeToString(root), width, height };
  }

  async function pixels({ text, width, height }, scale) {
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  // Two buttons under a figure. `ready` draws what is not drawn yet.
  function offerPictures(figure, name, ready = async () => {}) {
    const line = factlife.element("p", "Figure: ", { class: "downloads" });
    const kinds = {
      SVG: async () => factlife.save(`${name}.svg`, "image/svg+xml", picture(figure).text),
      PNG: async () => factlife.save(`${name}.png`, "image/png", await pixels(picture(figure), 2)),
    };
    for (const [kind, make] of Object.entries(kinds)) {
      const button = factlife.element("button", kind, { type: "button", "aria-label": `Download this figure as ${kind}` });
      button.addEventListener("click", async () => { await ready(); await make(); });
      line.append(button, " ");
    }
    const last = figure.lastElementChild;
    if (last.tagName !== "DIV") { // figures side by side share four rows: no child more
      const box = document.createElement("div");
      last.replaceWith(box);
      box.append(last, line);
    } else last.append(line);
  }

  return { draw, fillData, offerPictures, picture, pixels };
})());
