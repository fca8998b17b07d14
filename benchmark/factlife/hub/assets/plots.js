"use strict";
// Charts of the board. A chart is a few lines over training; axis, scale and colours are put into
// the specification that reports draw their curves with.
factlife.plots = (() => {
  const board = factlife.data("board");
  const metrics = Object.fromEntries(board.metrics.map((m) => [m.name, m]));
  const DASHES = [[1, 0], [7, 3], [2, 3]], SHAPES = ["circle", "square", "triangle-up"];
  const MARKS = ["M14 2.6a3.4 3.4 0 1 0 .01 0z", "M10.8 2.8h6.4v6.4h-6.4z", "M14 1.6 18 9.4H10z"];
  const SETS = { overall: "overall", LOC: "loc", NAME: "name", stated: "stated", unstated: "unstated" };

  // ---- numbers, as pages write them ---------------------------------------------------------

  function si(value) {
    const rounded = Number(value.toPrecision(3));
    for (const [scale, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
      if (Math.abs(rounded) >= scale) return Number((rounded / scale).toPrecision(3)) + suffix;
    }
    return String(rounded);
  }
  const isShare = (unit) => /^(share |mean share |probability)/.test(unit);
  function bare(value, unit) {
    if (unit === "tokens") return si(value);
    let text;
    if (isShare(unit) || unit === "difference of shares") text = (100 * value).toFixed(1);
    else if (value !== 0 && Math.abs(value) < 0.01) text = value.toPrecision(2);
    else if (Math.abs(value) >= 1e5) text = si(value);
    else text = value.toFixed(unit === "AUROC" ? 3 : 2);
    return /^-[0.]+$/.test(text) ? text.slice(1) : text.replace("-", "\u2212");
  }
  const sign = (unit) => (isShare(unit) ? "\u202f%" : unit === "difference of shares" ? "\u202fpp" : "");
  const number = (value, unit) => bare(value, unit) + sign(unit);
  const interval = (low, high, unit) => `${bare(low, unit)} to ${bare(high, unit)}${sign(unit)}`;

  // ---- axis ---------------------------------------------------------------------------------

  const AXES = { tokens: "training tokens", step: "optimiser steps", position: "place in the series" };

  function logTicks(low, high) {
    let ticks = [];
    for (const digits of [[1], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]) {
      const found = [];
      for (let e = Math.floor(low); e <= Math.ceil(high); e++) {
        for (const d of digits) {
          const at = Math.log10(d) + e;
          if (at >= low - 1e-9 && at <= high + 1e-9) found.push(at);
        }
      }
      if (found.length > 7 && ticks.length) break;
      ticks = found;
      if (ticks.length >= 3) break;
    }
    const stride = Math.ceil(ticks.length / 7) || 1;
    return ticks.length ? ticks.filter((_, i) => i % stride === 0) : [low];
  }

  // Where values stand; on a log axis step 0 has a slot of its own, as in reports.
  function makeAxis(kind, values, log) {
    const words = (expression) => `replace(replace(format(${expression}), 'G', 'B'), 'k', 'K')`;
    const positive = values.filter((v) => v > 0).map(Math.log10);
    if (!log || kind === "position" || !positive.length) {
      const low = Math.min(...values), high = Math.max(...values), room = 0.03 * (high - low || 1);
      return {
        title: AXES[kind], place: (v) => v, apart: () => false, domain: [low - room, high + room],
        label: words(kind === "position" ? "datum.value, 'd'" : "datum.value, '.2~s'"),
      };
    }
    let low = Math.min(...positive), high = Math.max(...positive);
    if (high - low < 0.3) [low, high] = [low - 0.15, high + 0.15];
    const slot = values.some((v) => v <= 0) ? low - (0.12 * (high - low)) / 0.88 : undefined;
    const left = slot ?? low, room = 0.04 * (high - left), ticks = logTicks(low, high);
    const label = words("pow(10, datum.value), '.1~s'");
    const seam = slot === undefined ? undefined : (slot + low) / 2;
    return {
      title: `${AXES[kind]} (log scale${slot === undefined ? "" : ", step 0 apart"})`,
      place: (v) => (v > 0 ? Math.log10(v) : slot), apart: (v) => v <= 0, domain: [left - room, high + room],
      ticks: slot === undefined ? ticks : [slot, ...ticks], seam,
      label: seam === undefined ? label : `datum.value < ${seam} ? '0' : ${label}`,
    };
  }

  // ---- lines --------------------------------------------------------------------------------

  // Points of a metric in a scope of a series: one a checkpoint, or one of the series as a whole.
  function points(series, metric, scope) {
    const found = series.curves[metric]?.[scope];
    if (!found) return [];
    const [value, low, high, n] = found;
    return value.flatMap((v, i) => v === null ? [] : [{
      value: v, ci_low: low[i], ci_high: high[i], n: Array.isArray(n) ? n[i] : n,
      ...(metrics[metric].curve ? { ...series.checkpoints[i], position: i } : { revision: "whole series" }),
    }]);
  }

  const knows = (kind, p) => kind === "position" || typeof p[kind] === "number";

  function scaleOf(unit, rows) {
    const unitInterval = isShare(unit) || /^(IoU|AUROC)$/.test(unit);
    const inside = rows.every((r) => r.ci_low >= 0 && r.ci_high <= 1);
    const percent = isShare(unit) || unit === "difference of shares";
    return {
      title: unit, format: percent ? ".0%" : unitInterval ? ".1f" : rows.every((r) => Math.abs(r.ci_high) < 1000) ? ".3~g" : ".3~s", precise: percent ? ".1%" : ".4~g",
      scale: unitInterval && inside ? { domain: [0, 1], nice: false } : { zero: false, nice: true },
    };
  }

  const TIP = (precise) => [
    { field: "measure", type: "nominal", title: "line" },
    { field: "revision", type: "nominal", title: "checkpoint" },
    { field: "tokens", type: "quantitative", title: "training tokens", format: ",d" },
    { field: "step", type: "quantitative", title: "step", format: ",d" },
    { field: "value", type: "quantitative", title: "value", format: precise },
    { field: "ci_low", type: "quantitative", title: "interval from", format: precise },
    { field: "ci_high", type: "quantitative", title: "interval to", format: precise },
    { field: "n", type: "quantitative", title: "n" },
  ];

  // The report's specification with this chart's axis, scale, colours and tooltip.
  function fitted(template, { axis, scale, lines, rows, place }) {
    const spec = structuredClone(template);
    delete spec.datasets;
    const some = { true: rows.some((r) => r.alone), false: rows.some((r) => !r.alone) };
    spec.layer = spec.layer.filter((layer) => {
      if (layer.data) return axis?.seam !== undefined; // the broken line beside step 0
      const filter = layer.transform?.[0]?.filter;
      return filter?.field !== "alone" || some[filter.equal];
    });
    const unique = [...new Map(lines.map((l) => [l.colourKey, l.colour]))];
    for (const layer of spec.layer) {
      if (layer.data) { layer.data = { values: [{ at: axis.seam }] }; continue; }
      const e = layer.encoding;
      for (const channel of [e.x, e.y]) {
        if (axis && channel === e.x) {
          channel.title = axis.title;
          channel.scale = { domain: axis.domain, nice: false, zero: false };
          channel.axis = { labelExpr: axis.label, labelOverlap: true, grid: false, ...(axis.ticks ? { values: axis.ticks } : { tickCount: 6 }) };
        } else if (["value", "ci_low"].includes(channel?.field)) {
          channel.title = scale.title;
          if (channel.field === "value") Object.assign(channel, { scale: scale.scale, axis: { format: scale.format, tickCount: 5, labelOverlap: true } });
        } else if (channel && place) channel.sort = place;
      }
      if (e.color) e.color.scale = { domain: unique.map(([k]) => k), range: unique.map(([, c]) => c) };
      if (e.strokeDash) e.strokeDash.scale = { domain: lines.map((l) => l.label), range: lines.map((l) => DASHES[l.style % 3]) };
      if (e.shape) e.shape.scale = { domain: lines.map((l) => l.label), range: lines.map((l) => SHAPES[l.style % 3]) };
      if (e.tooltip) e.tooltip = TIP(scale.precise);
    }
    return spec;
  }

  // ---- figures ------------------------------------------------------------------------------

  function legend(lines) {
    const list = factlife.element("ul", undefined, { class: "legend" });
    for (const line of lines) {
      const item = factlife.element("li"), ns = "http://www.w3.org/2000/svg";
      const svg = document.createElementNS(ns, "svg");
      for (const [k, v] of Object.entries({ class: "swatch", viewBox: "0 0 28 12", "aria-hidden": "true" })) svg.setAttribute(k, v);
      svg.style.setProperty("--swatch", line.colour);
      for (const d of ["M0 6H28", MARKS[line.style % 3]]) {
        const path = document.createElementNS(ns, "path");
        path.setAttribute("d", d);
        if (d === "M0 6H28") {
          path.setAttribute("class", "stroke");
          path.setAttribute("stroke-dasharray", line.style % 3 ? DASHES[line.style % 3].join(" ") : "none");
        }
        svg.append(path);
      }
      item.append(svg, factlife.element("span", line.label));
      list.append(item);
    }
    return list;
  }

  let drawing = [];
  const COLUMNS = ["line", "metric", "scope", "revision", "stage", "step", "tokens", "value", "ci_low", "ci_high", "n", "unit"];

  // An empty figure in the report's form; `fill` draws into it.
  function frame(id, title, about) {
    const figure = factlife.element("figure", undefined, { id: `figure-${id}` });
    const caption = factlife.element("figcaption");
    caption.append(factlife.element("h3", title), factlife.element("p", about));
    const keys = factlife.element("div", undefined, { class: "keys" });
    const chart = factlife.element("div", undefined, { class: "chart", role: "img", "aria-label": title });
    const foot = factlife.element("div");
    const data = factlife.element("details", undefined, { class: "data" });
    data.append(factlife.element("summary", "Data of this chart"));
    foot.append(data);
    figure.append(caption, keys, chart, foot);
    factlife.offerPictures(figure, id);
    return { figure, keys, chart, foot, data };
  }

  // Lines {label, colourKey, colour, style, metric, scope, series} -> what is drawn, and why not more.
  function prepared(lines, { unit, kind, log }) {
    const whole = lines.length && !metrics[lines[0].metric].curve, notes = [];
    const found = lines.map((line) => [line, points(line.series, line.metric, line.scope)]);
    const drawn = found.map(([line, all]) => [line, whole ? all : all.filter((p) => knows(kind, p))]).filter(([, p]) => p.length);
    for (const [line, all] of found) {
      if (!all.length) notes.push(`${line.label}: ${line.series.missing[line.metric] ?? "not part of this result"}.`);
      else if (!whole && !all.some((p) => knows(kind, p))) notes.push(`${line.label}: ${AXES[kind]} are not known.`);
    }
    const axis = whole || !drawn.length ? undefined : makeAxis(kind, drawn.flatMap(([, p]) => p.map((q) => q[kind])), log);
    const rows = drawn.flatMap(([line, p]) => {
      const together = p.filter((q) => axis && !axis.apart(q[kind])).length;
      return p.map((q) => ({
        ...q, line: line.label, scope: line.colourKey, measure: line.label, metric: line.metric, set: line.scope, unit,
        x: axis?.place(q[kind]), alone: !axis || axis.apart(q[kind]) || together === 1,
      }));
    });
    return { whole, notes, axis, rows, scale: scaleOf(unit, rows), lines: drawn.map(([line]) => line) };
  }

  function finish(parts, id, { notes, rows }) {
    for (const text of notes) parts.foot.prepend(factlife.element("p", text, { class: "note" }));
    const listed = rows.map((r) => ({ ...r, scope: r.set }));
    parts.data.addEventListener("toggle", () => parts.data.open && factlife.fillData(parts.data, id, listed, COLUMNS));
    return parts.figure;
  }

  // One chart with all lines; metrics of a whole series stand one under another instead.
  function curves(id, { title, about, lines, ...given }) {
    const parts = frame(id, title, about), made = prepared(lines, given);
    if (!made.rows.length) parts.chart.replaceChildren(factlife.element("p", "No chart: none of these series has a value.", { class: "missing" }));
    else {
      const names = made.lines.map((l) => l.colourKey);
      const spec = fitted(made.whole ? board.intervals : board.curves, { ...made, place: names });
      if (made.whole) spec.height = 30 * names.length;
      else if (made.lines.length > 1) parts.keys.append(legend(made.lines));
      drawing.push([parts.chart, { ...spec, description: `${title}. ${about}` }, made.rows]);
    }
    return finish(parts, id, made);
  }

  // Small charts on one axis and one scale, one for each colour of the lines.
  function panels(id, { title, about, lines, ...given }) {
    const parts = frame(id, title, about), made = prepared(lines, given);
    const box = factlife.element("div", undefined, { class: "panels narrow" });
    for (const key of new Set(made.lines.map((l) => l.colourKey))) {
      const own = made.lines.filter((l) => l.colourKey === key), rows = made.rows.filter((r) => r.scope === key);
      const panel = factlife.element("div", undefined, { class: "panel" });
      const chart = factlife.element("div", undefined, { class: "chart", role: "img", "aria-label": `${title}: ${key}` });
      const spec = fitted(board.curves, { ...made, lines: own, rows });
      for (const { encoding: e } of spec.layer) for (const c of [e.x, e.y]) if (c && "title" in c) c.title = null;
      drawing.push([chart, { ...spec, height: 120, description: `${title}: ${key}. ${about}` }, rows]);
      panel.append(factlife.element("h4", key), chart);
      box.append(panel);
    }
    parts.chart.replaceWith(box);
    if (made.lines.some((l) => l.style)) parts.keys.append(legend([0, 1].map((style) => ({ label: ["measured", "by chance"][style], colour: "var(--ink)", style }))));
    return finish(parts, id, made);
  }

  function rowsOf(table) {
    const names = Object.keys(table), first = table[names[0]];
    return (first.codes ?? first).map((_, i) => Object.fromEntries(names.map((name) => {
      const column = table[name];
      return [name, Array.isArray(column) ? column[i] : column.names[column.codes[i]] ?? null];
    })));
  }

  function matrices(series) {
    if (!series.transitions) return [];
    const all = rowsOf(series.transitions);
    return [...new Set(all.map((r) => r.kind))].map((kind) => {
      const rows = all.filter((r) => r.kind === kind);
      const parts = frame(
        `transitions-${kind}`, `Changes of role: ${kind === "ffn" ? "FFN" : kind}s`,
        "How often a component with the role of the row has the role of the column at the next checkpoint, in per cent; beneath it the same with identities shuffled within each layer.",
      );
      drawing.push([parts.chart, { ...board.matrix, description: "Changes of role." }, rows]);
      const columns = ["kind", "before", "after", "count", "probability", "ci_low", "ci_high", "null_mean", "null_low", "null_high", "rate"];
      parts.data.addEventListener("toggle", () => parts.data.open && factlife.fillData(parts.data, `transitions-${kind}`, rows, columns));
      return parts.figure;
    });
  }

  // Puts ends and ticks into every layer of a chart that has them.
  function onAxes(spec, x, y) {
    for (const { encoding: e } of spec.layer) {
      if (e?.x?.scale) Object.assign(e.x, { title: x.title ?? e.x.title, scale: { ...e.x.scale, domain: x.domain }, axis: { ...e.x.axis, ...x.axis } });
      if (e?.y?.scale) e.y.scale = { ...e.y.scale, domain: y };
    }
    return spec;
  }

  // Share of the gain that is kept, a panel for each start of injection, with the fitted laws.
  function retention(series) {
    if (!series.retention) return [];
    const rows = rowsOf(series.retention), starts = [...new Set(rows.map((r) => r.start))];
    const about = "Ratio of mean gains, all arms together, after the last injection; the axis is logarithmic, so that a straight line is a logarithmic law. The laws are fitted to the points shown; bands are intervals.";
    const parts = frame("retention", "Share of the gain that is kept", about), box = factlife.element("div", undefined, { class: "panels narrow" });
    const longest = Math.max(...rows.map((r) => r.x)), measured = rows.filter((r) => r.law === "measured");
    const low = Math.max(-1, Math.min(0, ...measured.map((r) => r.ci_low))), high = Math.min(2.5, Math.max(1.05, ...measured.map((r) => r.ci_high)));
    for (const start of starts) {
      const panel = factlife.element("div", undefined, { class: "panel" }), name = start.replaceAll("_", " ");
      const chart = factlife.element("div", undefined, { class: "chart", role: "img", "aria-label": `Share of the gain that is kept: ${name}` });
      const spec = onAxes(structuredClone(board.retention), { domain: [0, longest], axis: { values: logTicks(0, longest) } }, [low, high]);
      delete spec.datasets;
      for (const layer of spec.layer) {
        if (layer.data) layer.data = { values: [{ at: 0 }] };
        else if (layer.mark?.type) layer.mark.clip = true;
      }
      drawing.push([chart, { ...spec, height: 190, description: `Share of the gain that is kept: ${name}. ${about}` }, rows.filter((r) => r.start === start).map((r) => ({ ...r, arm: name }))]);
      panel.append(factlife.element("h4", `${name} start`), chart);
      box.append(panel);
    }
    parts.chart.replaceWith(box);
    const laws = rows.some((r) => r.law !== "measured") ? board.laws.map((label, style) => ({ label, colour: "var(--name)", style })) : [];
    parts.keys.append(legend([{ label: "measured, with its interval", colour: "var(--ink)", style: 0 }, ...laws]));
    parts.data.addEventListener("toggle", () => parts.data.open && factlife.fillData(parts.data, "retention", rows, ["start", "law", "t", "value", "ci_low", "ci_high", "n"]));
    return [parts.figure];
  }

  // Losses on facts and on made-up names over training, above the shaded phases.
  function phases(series) {
    const p = series.phases;
    if (!p) return [];
    const about = "Loss on facts and on made-up names over the candidates. Shaded: the phases; dashed: the loss of knowing nobody. A phase ends at t1 or t2; from the onset on, made-up names fare worse than that loss.";
    const parts = frame("phases", "Phases of learning", about);
    const names = ["facts", "made-up names"], colours = ["var(--loc)", "var(--name)"];
    const lines = ["dynamics.series_loss", "dynamics.series_loss_unseen"].map((metric, i) => ({ label: names[i], colourKey: names[i], colour: colours[i], style: 0, metric, scope: "overall", series }));
    const made = prepared(lines, { unit: "nats", kind: p.axis, log: true }), { axis } = made;
    const [falling, plateau, learning] = board.phase_names, end = p.last;
    const spans = [[falling, null, p.t1 ?? end]];
    if (p.t1 !== null && (p.t2 === null || p.t2 >= 2 * p.t1)) spans.push([plateau, p.t1, p.t2 ?? end]);
    if (p.t2 !== null) spans.push([learning, p.t2, end]);
    const rows = [
      ...made.rows.map((r) => ({ ...r, kind: "eval", series: r.line, dynamics_run: r.line, apart: r.alone })),
      ...spans.filter(([, from, to]) => from === null || from < to).map(([name, from, to]) => ({ kind: "phase", series: name, x: from === null ? axis.domain[0] : axis.place(from), x2: axis.place(to) })),
      ...["t1", "t2", "onset"].filter((name) => p[name] !== null).map((name) => ({ kind: "mark", series: name, x: axis.place(p[name]) })),
      { kind: "baseline", value: p.baseline },
    ];
    const top = 1.05 * Math.max(p.baseline, ...made.rows.map((r) => r.value));
    const spec = onAxes(structuredClone(board.phases), { title: axis.title, domain: axis.domain, axis: { labelExpr: axis.label, ...(axis.ticks ? { values: axis.ticks } : {}) } }, [0, top]);
    delete spec.datasets;
    spec.layer = spec.layer.filter((layer) => !layer.data || axis.seam !== undefined);
    for (const layer of spec.layer) {
      if (layer.data) layer.data = { values: [{ at: axis.seam }] };
      if (layer.encoding.color) layer.encoding.color.scale = { domain: names, range: colours };
      if (layer.encoding.tooltip) layer.encoding.tooltip = TIP(".4~g");
    }
    drawing.push([parts.chart, { ...spec, description: `Phases of learning. ${about}` }, rows]);
    parts.keys.append(legend(made.lines));
    made.notes.push(...Object.entries(p.why).map(([name, why]) => `${name}: ${why}.`));
    return [finish(parts, "phases", made)];
  }

  // ---- drawing what is on the page ----------------------------------------------------------

  const jobs = new Map(); // chart -> what is drawn in it
  async function drawQueued() {
    const mine = drawing;
    drawing = [];
    for (const chart of jobs.keys()) if (!chart.isConnected) jobs.delete(chart);
    if (!mine.length) return;
    await factlife.need("vega", "vega.js");
    for (const [chart, spec, rows] of mine) {
      if (!chart.isConnected) continue; // the reader went on
      jobs.set(chart, [spec, rows]);
      await factlife.draw(chart, spec, rows);
      await new Promise((done) => setTimeout(done));
    }
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", async () => {
    for (const [chart, [spec, rows]] of jobs) if (chart.isConnected) await factlife.draw(chart, spec, rows);
  });

  const colourOf = (key, i) => `var(--${SETS[key] ?? (board.roles.includes(key) ? `role-${key}` : key === "active" ? "ink" : `line-${(i % board.most) + 1}`)})`;

  return { board, metrics, number, interval, points, curves, panels, matrices, retention, phases, drawQueued, colourOf, SETS, AXES };
})();
