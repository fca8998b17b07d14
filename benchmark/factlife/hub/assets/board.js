"use strict";
// The views of the board: the table, one series, several series compared. The address says which.
(() => {
  const { board, metrics, number, interval, points, curves, panels, matrices, retention, phases, drawQueued, colourOf, SETS, AXES } = factlife.plots;
  const { element } = factlife;
  const bySlug = Object.fromEntries(board.series.map((s) => [s.slug, s]));
  const byId = (id) => document.getElementById(id);
  const status = byId("status"), filter = byId("filter"), title = document.title;
  const tables = [...document.querySelectorAll("table.board")];

  // ---- sorting ------------------------------------------------------------------------------

  const rowsOf = (table) => [...table.tBodies[0].rows];

  // Rows without a value stay at the end, whichever way the others run.
  function compareKeys(a, b, sign) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
    return sign * a.localeCompare(b);
  }

  async function sort(table, button) {
    await readRows();
    const head = button.closest("th"), column = Number(button.dataset.column);
    const before = head.getAttribute("aria-sort");
    const upward = before === "none" ? button.dataset.first === "up" : before === "descending";
    for (const th of table.tHead.rows[0].cells) th.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", upward ? "ascending" : "descending");
    const keyed = rowsOf(table).map((row) => [row.cells[column].dataset.key, row]);
    keyed.sort(([a], [b]) => compareKeys(a, b, upward ? 1 : -1));
    table.tBodies[0].append(...keyed.map(([, row]) => row));
    status.textContent = `Sorted by ${button.textContent}, ${upward ? "ascending" : "descending"}.`;
    shorten();
  }

  // ---- rows that lie beside the page --------------------------------------------------------

  const whole = new Set(); // sections shown to their last row
  let reading;

  function readRows() {
    if (!document.querySelector(".show-all")) return Promise.resolve();
    return (reading ??= factlife.need("rows", "rows.js").then((more) => {
      for (const table of tables) table.tBodies[0].insertAdjacentHTML("beforeend", more[table.dataset.section] ?? "");
      enable(document);
    }));
  }

  // Of a long section only the first rows are shown until the reader asks for all of them.
  function shorten() {
    for (const table of tables) {
      const name = table.dataset.section, button = document.querySelector(`.show-all[data-section="${name}"]`);
      if (!button) continue;
      let shown = 0;
      for (const row of rowsOf(table)) {
        if (row.dataset.out) continue;
        row.hidden = !whole.has(name) && ++shown > board.first;
      }
      button.hidden = whole.has(name) || shown <= board.first;
    }
  }

  // ---- filter, columns ----------------------------------------------------------------------

  async function narrow() {
    await readRows();
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, all = 0;
    for (const table of tables) {
      for (const row of rowsOf(table)) {
        row.dataset.text ??= [...row.cells].slice(0, 4).map((c) => c.textContent).join(" ").toLowerCase();
        row.hidden = !words.every((word) => row.dataset.text.includes(word));
        if (row.hidden) row.dataset.out = "yes";
        else delete row.dataset.out;
        shown += row.hidden ? 0 : 1;
        all += 1;
      }
    }
    shorten();
    status.textContent = words.length ? `${shown.toLocaleString("en")} of ${all.toLocaleString("en")} rows match.` : "";
  }

  const columns = byId("columns");
  function chooseColumns() {
    const style = byId("chosen-columns") ?? document.head.appendChild(element("style", "", { id: "chosen-columns" }));
    const track = [...columns.options].find((o) => o.selected && /^[a-z_]+$/.test(o.value))?.value;
    style.textContent = track ? `.board [data-track]:not([data-track="${track}"]) { display: none; }` : "";
    edges();
  }

  // Marks the tables that have columns beyond the right edge.
  function edges() {
    for (const table of tables) {
      const box = table.parentElement;
      box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
    }
  }
  for (const table of tables) table.parentElement.addEventListener("scroll", edges, { passive: true });
  addEventListener("resize", edges);

  // ---- picking ------------------------------------------------------------------------------

  const button = byId("compare");
  const picked = new Set();

  function enable(root) {
    for (const box of root.querySelectorAll(".pick")) box.disabled = false;
  }

  function pick(box) {
    const { slug } = box.closest("tr").dataset;
    if (box.checked && picked.size === board.most) {
      box.checked = false;
      status.textContent = `A chart holds ${board.most} series: take one out first.`;
      return;
    }
    picked[box.checked ? "add" : "delete"](slug);
    button.disabled = !picked.size;
    button.textContent = picked.size ? `Compare ${picked.size} series` : "Compare";
    status.textContent = picked.size ? `${picked.size} of at most ${board.most} series picked.` : "";
  }

  // ---- one series ---------------------------------------------------------------------------

  const seriesOf = (slug) => factlife.need(slug, `series/${slug}.js`);
  const axisOf = (all) => ["tokens", "step"].find((kind) => all.every((s) => s.checkpoints.every((c) => typeof c[kind] === "number"))) ?? "position";
  const scopesOf = (all, metric) => [...new Set(all.flatMap((s) => Object.keys(s.curves[metric] ?? {})))];
  const scopeName = (scope) => (scope === "overall" ? "all facts" : scope.replaceAll("_", " "));

  function back() {
    const nav = element("p", undefined, { class: "back" });
    nav.append(element("a", "← All series", { href: "#" }));
    return nav;
  }

  // Lines of one of the registry's charts for a series; none where there is nothing to see.
  function linesOf(chart, series) {
    const single = chart.lines.length === 1;
    const wanted = single
      ? Object.keys(SETS).filter((s) => scopesOf([series], chart.lines[0].metric).includes(s)).map((scope) => ({ ...chart.lines[0], scope, label: scopeName(scope), key: scope }))
      : chart.lines.map((line) => ({ ...line, scope: "overall", key: line.label, label: line.null ? `${line.label}, by chance` : line.label }));
    const keys = [...new Set(wanted.map((l) => l.key))];
    const lines = wanted.map((l, i) => ({
      label: l.label, colourKey: l.key, colour: colourOf(l.key, keys.indexOf(l.key)), style: l.null ? 1 : single ? i % 3 : 0,
      metric: l.metric, scope: l.scope, series,
    })).filter((l) => points(series, l.metric, l.scope).length);
    const enough = series.checkpoints.length < 2 || lines.some((l) => points(series, l.metric, l.scope).length > 1);
    return enough ? lines : [];
  }

  function grid(...figures) {
    const made = element("div", undefined, { class: "figures" });
    made.append(...figures);
    return made;
  }

  function section(id, name, ...children) {
    const made = element("section", undefined, { id: `series-${id}`, "aria-labelledby": `series-${id}-title` });
    made.append(element("h3", name, { class: "section-title", id: `series-${id}-title` }), ...children);
    return made;
  }

  function numbers(series, track) {
    const own = board.metrics.filter((m) => m.track === track && Object.keys(SETS).some((s) => series.curves[m.name]?.[s]));
    const scopes = Object.keys(SETS).filter((s) => own.some((m) => series.curves[m.name][s]));
    const table = element("table", undefined, { class: "metrics" });
    table.append(element("caption", "All numbers at the last checkpoint, or of the whole series"));
    const head = table.createTHead().insertRow();
    for (const name of ["metric", ...scopes.map(scopeName)]) head.append(element("th", name, { scope: "col" }));
    const body = table.createTBody();
    for (const m of own) {
      const row = body.insertRow(), name = element("th", m.title, { scope: "row", title: m.meaning });
      name.append(element("small", `${m.unit}${m.direction === "neither" ? "" : `, ${m.direction} is better`}`));
      row.append(name);
      for (const scope of scopes) {
        const last = points(series, m.name, scope).at(-1), cell = row.insertCell();
        cell.className = "number";
        cell.textContent = last ? number(last.value, m.unit) : "–";
        if (last) cell.append(element("small", interval(last.ci_low, last.ci_high, m.unit)));
      }
    }
    const box = element("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": `Numbers of ${track}` });
    box.append(table);
    const details = element("details");
    details.append(element("summary", `All numbers of this track (${own.length})`), box);
    return details;
  }

  async function showSeries(slug) {
    const series = await seriesOf(slug), view = byId("view-series");
    const intro = element("div", undefined, { class: "intro" });
    intro.innerHTML = series.about; // HTML that the board's builder escaped
    const links = element("p", undefined, { class: "actions" });
    links.append(element("a", "Chart any metric, or compare with other series", { href: `#compare/${slug}` }));
    for (const [kind, make] of [["JSON", saveJson], ["CSV", saveCsv]]) {
      const save = element("button", `Download ${kind}`, { type: "button" });
      save.addEventListener("click", () => make(series));
      links.append(" ", save);
    }
    const tracks = [...new Set(board.metrics.map((m) => m.track))].filter((t) => board.metrics.some((m) => m.track === t && series.curves[m.name]));
    const kind = axisOf([series]);
    const parts = tracks.map((track) => {
      const charts = board.families.filter((f) => f.track === track).map((f, i) => [f, linesOf(f, series), i]).filter(([, lines]) => lines.length);
      const figures = charts.map(([f, lines, i]) => (lines.length > 4 && f.lines.length > 1 ? panels : curves)(`${track}-${i}`, { title: f.title, about: f.meaning, lines, unit: f.unit, kind, log: true }));
      if (track === "circuits") figures.push(...matrices(series));
      if (track === "injection") figures.unshift(...retention(series));
      if (track === "dynamics") figures.unshift(...phases(series));
      return section(track, track[0].toUpperCase() + track.slice(1), ...(figures.length ? [grid(...figures)] : []), numbers(series, track));
    });
    const provenance = element("div");
    provenance.innerHTML = series.provenance; // likewise
    view.replaceChildren(back(), intro, links, ...parts, section("provenance", "Provenance", provenance));
    return series.name;
  }

  function flat(series) {
    return Object.entries(series.curves).flatMap(([metric, scopes]) => Object.keys(scopes).flatMap((scope) =>
      points(series, metric, scope).map((p) => ({ series: series.name, metric, scope, ...p, unit: metrics[metric].unit }))));
  }
  const FLAT = ["series", "metric", "scope", "revision", "stage", "step", "tokens", "value", "ci_low", "ci_high", "n", "unit"];
  const saveCsv = (s) => factlife.save(`${s.slug}.csv`, "text/csv", factlife.csv(flat(s), FLAT));
  const saveJson = (s) => {
    const { about, provenance, ...data } = s;
    factlife.save(`${s.slug}.json`, "application/json", JSON.stringify(data, null, 1));
  };

  // ---- several series -----------------------------------------------------------------------

  const DEFAULT = board.metrics.find((m) => m.headline && m.curve)?.name;

  function address(slugs, state) {
    const query = new URLSearchParams(state);
    return `#compare/${slugs.join("+")}${query.size ? `?${query}` : ""}`;
  }

  function menu(label, options, value, change) {
    const made = element("label"), select = element("select", undefined, { autocomplete: "off" });
    for (const [group, entries] of options) {
      const into = group ? select.appendChild(element("optgroup", undefined, { label: group })) : select;
      for (const [key, text] of entries) into.append(element("option", text, { value: key }));
    }
    select.value = value;
    select.addEventListener("change", () => change(select.value));
    made.append(element("span", label), select);
    return made;
  }

  async function showCompare(slugs, given) {
    const all = await Promise.all(slugs.map(seriesOf)), view = byId("view-compare");
    const has = board.metrics.filter((m) => all.some((s) => s.curves[m.name]));
    const metric = metrics[has.some((m) => m.name === given.metric) ? given.metric : has.some((m) => m.name === DEFAULT) ? DEFAULT : has[0]?.name];
    const scopes = metric ? scopesOf(all, metric.name) : [];
    const scope = scopes.includes(given.scope) ? given.scope : scopes[0];
    const kind = given.axis in AXES ? given.axis : axisOf(all);
    const log = given.log !== "no";
    const state = Object.fromEntries(Object.entries({ metric: given.metric, scope: given.scope, axis: given.axis, log: given.log }).filter(([, v]) => v));
    const go = (change, which = slugs) => { location.hash = address(which, { ...state, ...change }); };

    const heading = element("h2", slugs.length > 1 ? `Compare ${slugs.length} series` : "Compare series", { tabindex: "-1" });
    const controls = element("div", undefined, { class: "board-controls" });
    const tracks = [...new Set(has.map((m) => m.track))];
    controls.append(menu("Metric", tracks.map((t) => [t, has.filter((m) => m.track === t).map((m) => [m.name, m.title])]), metric?.name, (v) => go({ metric: v, scope: "" })));
    controls.append(menu("Facts", [["", scopes.map((s) => [s, scopeName(s)])]], scope, (v) => go({ scope: v })));
    if (metric?.curve) {
      controls.append(menu("Over", [["", Object.entries(AXES)]], kind, (v) => go({ axis: v })));
      controls.append(menu("Axis", [["", [["yes", "logarithmic"], ["no", "linear"]]]], log ? "yes" : "no", (v) => go({ log: v })));
    }
    const used = {};
    const lines = all.map((s, i) => {
      const before = used[s.name] = (used[s.name] ?? 0) + 1;
      const label = before > 1 ? `${s.name} (${before})` : s.name;
      return { label, colourKey: label, colour: `var(--line-${i + 1})`, style: i % 3, metric: metric?.name, scope, series: s };
    });

    const chips = element("ul", undefined, { class: "chips", "aria-label": "Series in this chart" });
    all.forEach((s, i) => {
      const item = element("li"), out = element("button", "×", { type: "button", "aria-label": `take out ${s.name}` });
      out.addEventListener("click", () => go({}, slugs.filter((_, j) => j !== i)));
      item.append(element("a", s.name, { href: `#series/${s.slug}` }), ...(s.badge ? [element("span", s.badge, { class: "chip badge" })] : []), out);
      chips.append(item);
    });
    const others = board.series.filter((s) => !slugs.includes(s.slug));
    if (slugs.length < board.most && others.length) {
      const add = menu("Add", [["", [["", "choose a series …"], ...others.map((s) => [s.slug, s.badge ? `${s.name} (${s.badge})` : s.name])]]], "", (v) => v && go({}, [...slugs, v]));
      controls.append(add);
    }
    const mixed = new Set(all.map((s) => bySlug[s.slug].section)).size > 1;
    const warning = mixed ? [element("p", "These series were measured with different profiles: look at the shape of the curves, not at who is ahead.", { class: "banner" })] : [];
    const about = metric && `${metric.meaning} In ${metric.unit}, ${scope === "overall" ? "over all facts" : scopeName(scope)}; bands and bars are intervals.`;
    const comparable = metric && !metric.comparable ? [element("p", "This number depends on the tokenizer: models with different tokenizers cannot be compared by it.", { class: "banner" })] : [];
    const figure = metric ? [curves("compare", { title: metric.title, about, lines, unit: metric.unit, kind, log })] : [element("p", "None of these series has a number to compare.", { class: "missing" })];
    view.replaceChildren(back(), heading, controls, chips, ...warning, ...comparable, grid(...figure));
    return "Compare";
  }

  // ---- which view ---------------------------------------------------------------------------

  const VIEWS = ["view-table", "view-series", "view-compare"];
  let shown = "view-table", turn = 0, scrolled = 0, focused;

  async function show() {
    const mine = ++turn;
    const [path, query] = location.hash.slice(1).split("?");
    const [kind, rest = ""] = path.split("/");
    const slugs = rest.split("+").filter((s) => Object.hasOwn(bySlug, s)).slice(0, board.most);
    const wanted = ["series", "compare"].includes(kind) && slugs.length ? `view-${kind}` : "view-table";
    document.documentElement.removeAttribute("data-drawn");
    let name;
    try {
      if (wanted === "view-series") name = await showSeries(slugs[0]);
      if (wanted === "view-compare") name = await showCompare([...new Set(slugs)], Object.fromEntries(new URLSearchParams(query)));
    } catch (error) {
      status.textContent = `This view could not be read: ${error.message}.`;
      return go(mine, "view-table");
    }
    if (mine !== turn) return;
    document.title = name ? `${name}: ${title}` : title;
    if (go(mine, wanted)) byId(wanted).querySelector("h2")?.focus({ preventScroll: true });
    await drawQueued();
    if (mine === turn) document.documentElement.setAttribute("data-drawn", "yes");
  }

  // Shows a view; true if it is another one than before. The table keeps its place.
  function go(mine, wanted) {
    if (mine !== turn) return false;
    const another = wanted !== shown;
    if (another && shown === "view-table") [scrolled, focused] = [scrollY, document.activeElement];
    for (const id of VIEWS) byId(id).hidden = id !== wanted;
    document.body.dataset.view = wanted.slice(5);
    edges();
    shown = wanted;
    if (another) scrollTo({ top: wanted === "view-table" ? scrolled : 0, behavior: "instant" });
    if (another && wanted === "view-table") focused?.focus({ preventScroll: true });
    return another && wanted !== "view-table";
  }

  // ---- wiring -------------------------------------------------------------------------------

  for (const table of tables) {
    for (const head of table.tHead.querySelectorAll("button")) {
      head.disabled = false;
      head.addEventListener("click", () => sort(table, head));
    }
    table.addEventListener("change", (event) => event.target.matches(".pick") && pick(event.target));
  }
  for (const control of [filter, columns]) control.disabled = false;
  filter.addEventListener("input", narrow);
  columns.addEventListener("change", chooseColumns);
  button.addEventListener("click", () => { location.hash = address([...picked], {}); });
  for (const more of document.querySelectorAll(".show-all")) {
    more.disabled = false;
    more.addEventListener("click", async () => {
      await readRows();
      whole.add(more.dataset.section);
      shorten();
    });
  }
  enable(document);
  addEventListener("hashchange", show);
  show();
})();
