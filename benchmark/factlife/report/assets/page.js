"use strict";
// What reports and the board share: embedded data, downloads, CSV.
const factlife = (() => {
  const data = (id) => JSON.parse(document.getElementById(id).textContent);

  // A text that a spreadsheet would take for a formula gets a leading apostrophe.
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value !== "string") return String(value);
    const safe = /^[=+\-@\t\r]/.test(value) ? "'" + value : value;
    return /[",\n\r]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };

  const csv = (rows, columns) =>
    [columns.map(cell).join(","), ...rows.map((r) => columns.map((c) => cell(r[c])).join(","))].join("\r\n") + "\r\n";

  const save = (name, type, content) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const element = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };

  // Scripts beside the page that hand one value to it, each read once: `factlife.receive(name, value)`.
  const received = {}, asked = {};
  const receive = (name, value) => { received[name] = value; };
  const need = (name, source) =>
    (asked[name] ??= new Promise((done, fail) => {
      const script = document.createElement("script");
      script.src = source;
      script.onload = () => (name in received ? done(received[name]) : fail(new Error(`${source} is not what it should be`)));
      script.onerror = () => { delete asked[name]; fail(new Error(`${source} is missing`)); };
      document.head.append(script);
    }));

  return { data, csv, save, element, receive, need };
})();
