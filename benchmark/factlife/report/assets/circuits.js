"use strict";
// Draws role maps and circuits of single facts. Every name enters the page as text, never as markup.
(() => {
  const data = factlife.data("drawings");
  const { element, csv, save } = factlife;
  const SVG = "http://www.w3.org/2000/svg";

  function shape(tag, attributes = {}, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const clamp = (low, x, high) => Math.max(low, Math.min(high, x));
  const percent = (x) => `${(100 * x).toFixed(1)}\u202f%`;
  const SUFFIXES = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]];

  function amount(n) {
    const found = SUFFIXES.find(([scale]) => n >= scale);
    return found ? `${+(n / found[0]).toPrecision(3)}${found[1]}` : `${n}`;
  }

  function checkpointName(place) {
    const { revision, tokens } = data.checkpoints[place];
    return tokens === null ? revision : `${revision} (${amount(tokens)} tokens)`;
  }

  const cssVisible = (box) => Math.max(240, box.clientWidth - 8);

  // ---- what both drawings share -------------------------------------------------------------

  // One stop for the tab key; arrows move inside. `move(item, key)` gives the next item or nothing.
  function roving(svg, items, describe, clear, move) {
    let current = items[0];
    const focus = (item) => {
      current.node.setAttribute("tabindex", "-1");
      current = item;
      item.node.setAttribute("tabindex", "0");
      item.node.focus({ preventScroll: false });
    };
    for (const item of items) {
      item.node.setAttribute("tabindex", item === current ? "0" : "-1");
      item.node.setAttribute("role", "img");
      item.node.addEventListener("focus", () => describe(item));
      item.node.addEventListener("pointerenter", () => describe(item));
      item.node.addEventListener("click", () => focus(item));
    }
    svg.addEventListener("pointerleave", () => (svg.contains(document.activeElement) ? describe(current) : clear()));
    svg.addEventListener("focusout", (event) => svg.contains(event.relatedTarget) || clear());
    svg.addEventListener("keydown", (event) => {
      const next = move(current, event.key);
      if (!next) return;
      event.preventDefault();
      focus(next);
    });
  }

  function tabled(details, name, columns, rows) {
    const button = element("button", "Download as CSV", { type: "button" });
    button.addEventListener("click", () => save(`${name}.csv`, "text/csv", csv(rows, columns)));
    const table = element("table"), head = table.createTHead().insertRow(), body = table.createTBody();
    for (const column of columns) head.append(element("th", column, { scope: "col" }));
    for (const row of rows) {
      const line = body.insertRow();
      for (const column of columns) line.insertCell().textContent = row[column] ?? "–";
    }
    const box = element("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": "Data of this drawing" });
    box.append(table);
    details.replaceChildren(details.querySelector("summary"), button, box);
  }

  function controls(figure, changed) {
    const found = {};
    for (const control of figure.querySelectorAll("[data-control]")) {
      found[control.dataset.control] = control;
      control.addEventListener(control.type === "range" ? "input" : "change", () => changed());
    }
    return found;
  }

  // Draws again when the width has changed, and fills the table when it is opened.
  function wire(figure, draw, fill) {
    const details = figure.querySelector(".drawn-data");
    const again = () => {
      draw();
      if (details.open) fill(details);
    };
    details.addEventListener("toggle", () => details.open && fill(details));
    let width = figure.clientWidth;
    new ResizeObserver(() => {
      if (figure.clientWidth !== width) {
        width = figure.clientWidth;
        draw();
      }
    }).observe(figure);
    return again;
  }

  function label(control, figure, name) {
    const output = figure.querySelector('[data-output="place"]');
    if (output) output.textContent = name;
    control?.setAttribute("aria-valuetext", name);
  }

  // ---- role map -----------------------------------------------------------------------------

  const KIND_NAMES = { head: "head", ffn: "FFN", expert: "expert" };

  function roleMap(figure) {
    const kinds = Object.entries(data.map);
    const anyScope = Object.values(kinds[0][1].scopes)[0];
    const places = anyScope.flatMap((letters, place) => (letters ? [place] : []));
    const box = figure.querySelector(".drawing"), readout = figure.querySelector(".readout");
    const control = controls(figure, () => again());
    const state = () => {
      const nth = control.place ? Number(control.place.value) : places.length - 1;
      return { nth, place: places[nth], before: places[nth - 1], scope: control.scope?.value ?? "overall" };
    };
    const roleOf = (map, scope, place, i) => {
      const letter = map.scopes[scope]?.[place]?.[i];
      const code = letter === undefined ? -1 : data.letters.indexOf(letter);
      return code < 0 ? "absent" : data.roles[code];
    };

    function summary() {
      const { scope, place } = state();
      const parts = kinds.map(([kind, map]) => {
        const letters = map.scopes[scope]?.[place] ?? "";
        const counts = data.roles.map((role, i) => [role, letters.split(data.letters[i]).length - 1]);
        return `${kind === "ffn" ? "FFNs" : `${kind}s`} ` + counts.filter(([, n]) => n).map(([role, n]) => `${n} ${role}`).join(", ");
      });
      return `${checkpointName(place)}: ${parts.join("; ")}.`;
    }

    function clear() {
      readout.textContent = summary();
    }

    function grid(svg, items, kind, map, left, top, size, scope) {
      const { place, before } = state();
      for (let layer = 0; layer < map.layers; layer++) {
        for (let index = 0; index < map.size; index++) {
          const i = layer * map.size + index;
          const role = roleOf(map, scope, place, i);
          const was = before === undefined ? role : roleOf(map, scope, before, i);
          const g = shape("g", { class: `cell ${role}${was === role ? "" : " changed"}` });
          const x = left + index * size, y = top + (map.layers - 1 - layer) * size;
          g.append(shape("rect", { x, y, width: size, height: size, rx: 2 }));
          const inset = size < 20 ? 1 : 2;
          g.append(shape("rect", { class: "ring", x: x + inset, y: y + inset, width: size - 2 * inset, height: size - 2 * inset, rx: 2 }));
          const letter = data.letters[data.roles.indexOf(role)];
          if (letter && letter !== "." && size >= 13) g.append(shape("text", { x: x + size / 2, y: y + size / 2 }, letter));
          const name = map.size === 1 ? `layer ${layer}, ${KIND_NAMES[kind]}` : `layer ${layer}, ${KIND_NAMES[kind]} ${index}`;
          const words = `${name}: ${role}${was === role ? "" : `, ${was} at the checkpoint before`}`;
          g.setAttribute("aria-label", words);
          svg.append(g);
          items.push({ node: g, words, kind, layer, index });
        }
      }
    }

    function every(n, size) {
      return size * n < 40 ? n : Math.max(1, Math.ceil(22 / size));
    }

    function axes(svg, map, left, top, size, name, layers) {
      const step = every(map.layers, size);
      if (layers) {
        for (let layer = 0; layer < map.layers; layer += step) {
          svg.append(shape("text", { x: left - 6, y: top + (map.layers - 0.5 - layer) * size, "text-anchor": "end", "dominant-baseline": "central" }, layer));
        }
      }
      const bottom = top + map.layers * size + 14;
      if (map.size > 1) {
        for (let index = 0; index < map.size; index += every(map.size, size)) {
          svg.append(shape("text", { x: left + (index + 0.5) * size, y: bottom, "text-anchor": "middle" }, index));
        }
      }
      svg.append(shape("text", { x: left + (map.size * size) / 2, y: map.size > 1 ? bottom + 17 : bottom, "text-anchor": "middle", class: "kind-name" }, name));
    }

    function draw() {
      const { scope, place } = state();
      label(control.place, figure, checkpointName(place));
      const active = document.activeElement, had = box.contains(active) ? active.getAttribute("data-at") : null;
      const items = [], width = cssVisible(box), left = 44, gap = 26, top = 22;
      const row = kinds.filter(([kind]) => kind !== "expert").reverse(); // FFNs first: a narrow screen shows them too
      const columns = row.reduce((sum, [, map]) => sum + map.size, 0);
      const size = clamp(14, Math.floor((width - left - gap * row.length) / columns), 38);
      const layers = kinds[0][1].layers;
      const drawn = shape("svg", { role: "group", "aria-label": summary() });
      drawn.append(shape("text", { x: 2, y: 12 }, "layer"));
      let x = left, bottom = top + layers * size + 40;
      row.forEach(([kind, map], i) => {
        grid(drawn, items, kind, map, x, top, size, scope);
        axes(drawn, map, x, top, size, KIND_NAMES[kind], i === 0);
        x += map.size * size + gap;
      });
      const experts = data.map.expert;
      if (experts) {
        const small = clamp(8, Math.floor((width - left) / experts.size), size);
        grid(drawn, items, "expert", experts, left, bottom, small, scope);
        axes(drawn, experts, left, bottom, small, "expert", true);
        bottom += experts.layers * small + 40;
        x = Math.max(x, left + experts.size * small + gap);
      }
      drawn.setAttribute("width", x);
      drawn.setAttribute("height", bottom);
      const at = new Map(items.map((item) => [`${item.kind} ${item.layer} ${item.index}`, item]));
      for (const [key, item] of at) item.node.setAttribute("data-at", key);
      roving(drawn, items, (item) => (readout.textContent = `${item.words[0].toUpperCase()}${item.words.slice(1)}.`), clear, (item, key) => {
        const by = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[key];
        if (!by) return undefined;
        const to = at.get(`${item.kind} ${item.layer + by[0]} ${item.index + by[1]}`);
        if (to) return to;
        if (item.kind === "ffn" && by[1] === 1) return at.get(`head ${item.layer} 0`);
        return item.kind === "head" && by[1] === -1 ? at.get(`ffn ${item.layer} 0`) : undefined;
      });
      box.replaceChildren(drawn);
      if (had && at.has(had)) at.get(had).node.focus();
      else clear();
    }

    function fill(details) {
      const { scope, place } = state();
      const rows = kinds.flatMap(([kind, map]) =>
        Array.from({ length: map.layers * map.size }, (_, i) => ({
          revision: data.checkpoints[place].revision, scope, kind,
          layer: Math.floor(i / map.size), index: i % map.size, role: roleOf(map, scope, place, i),
        })));
      tabled(details, "role-map", ["revision", "scope", "kind", "layer", "index", "role"], rows);
    }

    const again = wire(figure, draw, fill);
    draw();
  }

  // ---- circuit of one fact ------------------------------------------------------------------

  function unpack(text) {
    const { mask, edges: kinds } = data.facts;
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const found = [];
    for (let at = 0; at < bytes.length; ) {
      const [layer, kind, source, target, high, low] = bytes.subarray(at, at + 6);
      at += 6;
      const heads = [];
      if (kind === 0) {
        for (let h = 0; h < 8 * mask; h++) if ((bytes[at + (h >> 3)] >> (h & 7)) & 1) heads.push(h);
        at += mask;
      }
      found.push({ layer, kind: kinds[kind], source, target, share: (256 * high + low) / 65535, heads });
    }
    return found;
  }

  const written = (token) => token.trim() || (token.includes("\n") ? "⏎" : "␣");

  function factCircuit(figure) {
    const { items: facts, places, layers, parallel } = data.facts;
    const box = figure.querySelector(".drawing"), readout = figure.querySelector(".readout");
    const control = controls(figure, () => again());
    let edges = [];
    let chosenLeast = false;
    control.least?.addEventListener("change", () => (chosenLeast = true), { capture: true });

    const state = () => {
      const nth = control.place ? Number(control.place.value) : places.length - 1;
      return { fact: facts[Number(control.fact?.value ?? 0)], nth, place: places[nth], least: Number(control.least?.value ?? 0) };
    };
    const token = (fact, i) => `“${written(fact.tokens[i] ?? "?")}” (${i})`;

    function headNames(heads, layer, place) {
      const map = data.map.head, letters = map?.scopes.overall?.[place];
      const named = heads.map((h) => {
        const letter = letters?.[layer * map.size + h];
        return letter && letter !== "." && letter !== " " ? `${h} ${letter}` : `${h}`;
      });
      return `${heads.length === 1 ? "head" : "heads"} ${named.join(", ")}`;
    }

    function words(fact, edge, place) {
      const where = `Layer ${edge.layer}`, share = percent(edge.share);
      if (edge.kind === "attention") {
        const way = edge.source === edge.target ? `attention of ${token(fact, edge.target)} to itself` : `attention from ${token(fact, edge.source)} to ${token(fact, edge.target)}`;
        return `${where}, ${way}: ${share}, ${headNames(edge.heads, edge.layer, place)}.`;
      }
      const past = parallel ? "past the block" : "past attention";
      const way = { residual: `residual stream of ${token(fact, edge.target)}, ${past}`, mid: `residual stream of ${token(fact, edge.target)}, past the FFN`, ffn: `FFN at ${token(fact, edge.target)}` };
      return `${where}, ${way[edge.kind]}: ${share}.`;
    }

    // Where the ends of an edge stand: the state below a layer, the state after attention, above.
    function nodeWords(fact, level, position) {
      const [layer, after] = level;
      const into = edges.filter((e) => e.target === position && (after ? e.layer === layer && (e.kind === "attention" || e.kind === "residual") : e.layer === layer - 1 && (parallel || e.kind === "ffn" || e.kind === "mid")));
      const name = after ? `after attention of layer ${layer}` : layer === 0 ? "the embedding" : `after layer ${layer - 1}`;
      const sums = {};
      for (const e of into) {
        const key = e.kind === "attention" ? "attention" : e.kind === "ffn" ? "FFN" : "residual stream";
        sums[key] = (sums[key] ?? 0) + e.share;
      }
      const parts = Object.entries(sums).map(([key, sum]) => `${percent(sum)} ${key}`).join(", ");
      return { into, text: `${token(fact, position)}, ${name}${parts ? `: ${parts}` : ""}.` };
    }

    // Places of columns and layers for the width there is.
    function measure(fact) {
      const n = fact.tokens.length, left = 40;
      const column = clamp(42, Math.floor((cssVisible(box) - left - 16) / n), 110);
      const row = clamp(34, Math.floor(560 / layers), 112);
      const slanted = column < 74, foot = slanted ? 64 : 28, head = slanted ? 64 : 34;
      const height = head + layers * row + foot;
      const y = (layer) => height - foot - layer * row;
      return {
        n, left, column, row, slanted, height, y,
        width: left + n * column + (slanted ? 34 : 12),
        x: (i) => left + (i + 0.5) * column,
        middle: (layer) => (parallel ? y(layer + 1) : y(layer) - row * 0.56),
        bow: clamp(7, column * 0.2, 15),
      };
    }

    function frame(svg, fact, at) {
      for (let layer = 0; layer < layers; layer++) {
        if (layer % 2 === 0) svg.append(shape("rect", { class: "band", x: at.left - 8, y: at.y(layer + 1), width: at.n * at.column + 16, height: at.row }));
        svg.append(shape("text", { x: at.left - 14, y: at.y(layer) - at.row / 2, "text-anchor": "end", "dominant-baseline": "central" }, layer));
      }
      svg.append(shape("text", { x: 2, y: at.y(layers) - 6 }, "layer"));
      const cut = at.slanted ? 12 : Math.floor(at.column / 7.2);
      const short = (name, most) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);
      fact.tokens.forEach((t, i) => {
        const kind = fact.subject_at.includes(i) ? " subject" : fact.answer_at.includes(i) ? " answer" : "";
        svg.append(placed(short(written(t), cut), at.x(i), at.y(0) + 18, `token${kind}`, at.slanted, 1));
        if (fact.predicts.includes(i)) {
          const next = short(`→ ${written(fact.tokens[i + 1] ?? "")}`, cut + 2);
          svg.append(placed(next, at.x(i), at.y(layers) - 12, "token answer", at.slanted, -1));
        }
      });
    }

    function path(edge, at) {
      const upper = edge.kind === "ffn" || edge.kind === "mid";
      const x1 = at.x(edge.source), x2 = at.x(edge.target);
      const y1 = upper && !parallel ? at.middle(edge.layer) : at.y(edge.layer);
      const y2 = upper ? at.y(edge.layer + 1) : at.middle(edge.layer);
      const bowed = (by) => `M${x1} ${y1}C${x1 + by} ${y1} ${x1 + by} ${y2} ${x2} ${y2}`;
      if (edge.kind === "ffn") return bowed(1.3 * at.bow);
      if (edge.kind !== "attention") return `M${x1} ${y1}V${y2}`;
      if (edge.source === edge.target) return bowed(-at.bow);
      return `M${x1} ${y1}C${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2} ${x2} ${y2}`;
    }

    function line(edge, at, text) {
      const d = path(edge, at), wide = 0.5 + edge.share * clamp(4, at.row / 12, 8);
      const g = shape("g", { class: `edge ${edge.kind}`, "aria-label": text });
      g.append(shape("path", { class: "line", d, "stroke-width": wide.toFixed(2) }));
      if (edge.kind === "ffn") {
        const side = clamp(3.5, 2.5 + edge.share * 9, 9);
        const middle = ((parallel ? at.y(edge.layer) : at.middle(edge.layer)) + at.y(edge.layer + 1)) / 2;
        g.append(shape("rect", { class: "mark", x: at.x(edge.source) + at.bow - side / 2, y: middle - side / 2, width: side, height: side }));
      }
      g.append(shape("path", { class: "hit", d }));
      return g;
    }

    // The states that the drawn edges join: [[layer, after attention], position].
    function states(shown) {
      const used = new Map();
      const use = (layer, after, position) => used.set(`${layer} ${after} ${position}`, [[layer, after], position]);
      for (const { kind, layer, source, target } of shown) {
        const upper = kind === "ffn" || kind === "mid";
        use(layer, upper && !parallel, source);
        if (upper || parallel) use(layer + 1, false, target);
        else use(layer, true, target);
      }
      return used.values();
    }

    function dot(level, position, at, text) {
      const centre = { cx: at.x(position), cy: level[1] ? at.middle(level[0]) : at.y(level[0]) };
      const g = shape("g", { class: "node", "aria-label": text });
      g.append(shape("circle", { ...centre, r: level[1] ? 2 : 3.2 }), shape("circle", { ...centre, r: 7, class: "hit" }));
      return g;
    }

    function fillSvg(svg, fact, place, shown, at) {
      const items = [], drawn = new Map();
      for (const edge of shown) {
        const text = words(fact, edge, place), node = line(edge, at, text);
        svg.append(node);
        drawn.set(edge, node);
        items.push({ node, text, edge, on: [node], layer: edge.layer });
      }
      for (const [level, position] of states(shown)) {
        const { into, text } = nodeWords(fact, level, position), node = dot(level, position, at, text);
        svg.append(node);
        items.push({ node, text, on: [node, ...into.map((e) => drawn.get(e)).filter(Boolean)], layer: level[1] ? level[0] : level[0] - 1 });
      }
      return items;
    }

    function next(items, item, key) {
      const i = items.indexOf(item);
      if (key === "ArrowRight") return items[i + 1];
      if (key === "ArrowLeft") return items[i - 1];
      if (key === "Home") return items[0];
      if (key === "End") return items.at(-1);
      const by = { ArrowUp: 1, ArrowDown: -1 }[key];
      return by && items.find((other) => other.edge && other.layer === item.layer + by);
    }

    function draw() {
      const { fact, nth, place } = state();
      label(control.place, figure, checkpointName(place));
      edges = unpack(fact.circuits[nth]);
      if (control.least && !chosenLeast && edges.length > 500) control.least.value = "0.05";
      const shown = edges.filter((e) => e.share >= state().least), at = measure(fact);
      const name = `Circuit of ${fact.subject} at ${checkpointName(place)}: ${edges.length} lines; arrow keys move from line to line`;
      const svg = shape("svg", { width: at.width, height: at.height, role: "group", "aria-label": name });
      frame(svg, fact, at);
      const items = fillSvg(svg, fact, place, shown, at);

      let lit = [];
      const light = (item) => {
        for (const node of lit) node.classList.remove("on");
        lit = item ? item.on : [];
        for (const node of lit) node.classList.add("on");
        svg.classList.toggle("picked", Boolean(item));
      };
      const clear = () => {
        light(undefined);
        const told = shown.length === edges.length ? `${edges.length} lines` : `${shown.length} of ${edges.length} lines shown`;
        const answer = fact.answer === null || fact.answer === undefined ? "" : `, answer ${fact.answer}`;
        readout.textContent = `${fact.subject}${answer}; ${checkpointName(place)}: ${told}.`;
      };
      const describe = (item) => {
        light(item);
        readout.textContent = item.text;
      };
      if (items.length) roving(svg, items, describe, clear, (item, key) => next(items, item, key));
      const first = !box.firstChild;
      box.replaceChildren(svg);
      if (first) box.scrollLeft = at.width; // where the answer is predicted
      clear();
    }

    function placed(name, x, y, kind, slanted, side) {
      const made = shape("text", { x, y, class: kind, "text-anchor": slanted ? (side > 0 ? "end" : "start") : "middle" }, name);
      if (slanted) made.setAttribute("transform", `rotate(-42 ${x} ${y})`);
      return made;
    }

    function fill(details) {
      const { fact, place } = state();
      const columns = ["revision", "fact", "layer", "edge", "from", "from token", "to", "to token", "contribution", "heads"];
      const rows = edges.map((e) => ({
        revision: data.checkpoints[place].revision, fact: fact.fact, layer: e.layer, edge: e.kind,
        from: e.source, "from token": written(fact.tokens[e.source] ?? ""), to: e.target,
        "to token": written(fact.tokens[e.target] ?? ""), contribution: e.share.toFixed(4), heads: e.heads.join(" "),
      }));
      tabled(details, "circuit", columns, rows);
    }

    const again = wire(figure, draw, fill);
    draw();
  }

  const map = document.getElementById("figure-circuit-map");
  if (map) roleMap(map);
  const fact = document.getElementById("figure-circuit-fact");
  if (fact && data.facts) factCircuit(fact);
})();
