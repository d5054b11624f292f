"use strict";
// As little as possible: theme, keys, dialogs, copying, times in the zone of the reader, and live changes.
const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const say = (text) => { $("#said").textContent = text; };

// --- theme ---
function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme === "dark" || (root.dataset.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.dataset.theme = dark ? "light" : "dark";
  document.cookie = `dwarf_theme=${root.dataset.theme}; Path=/; Max-Age=31536000; SameSite=Strict`;
}

// --- times ---
const UNITS = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
function span(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const [size, unit, smaller, small] = UNITS.find(([one]) => seconds >= one);
  const rest = Math.floor(seconds % size / smaller);
  return `${Math.floor(seconds / size)} ${unit}` + (rest ? ` ${rest} ${small}` : "");
}
const roughly = (seconds) => span(seconds).split(" ").slice(0, 2).join(" ");
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
function tellTimes(within = document) {
  const now = Date.now();
  for (const one of $$("time[datetime]", within)) {
    const at = new Date(one.dateTime), seconds = (now - at) / 1000;
    one.textContent = seconds < -1 ? `in ${roughly(-seconds)}` : seconds < 1 ? "now" : `${roughly(seconds)} ago`;
    one.title = WHOLE.format(at);
  }
  for (const one of $$("time[data-since]", within)) one.textContent = span(Math.max(0, (now - new Date(one.dataset.since)) / 1000));
}

// --- live ---
const live = { source: null, paused: false };
function lost(yes) {
  $("#offline").hidden = !yes;
  document.body.classList.toggle("lost", yes);
}
function connect() {
  const button = $("#live");
  if (!button || live.paused || live.source || document.hidden) return;
  const source = live.source = new EventSource(button.dataset.live);
  source.addEventListener("update", (event) => {
    update(JSON.parse(event.data));
    button.classList.remove("got");
    requestAnimationFrame(() => button.classList.add("got"));
  });
  source.addEventListener("lost", () => lost(true));
  source.addEventListener("back", () => lost(false));
  source.onerror = () => lost(true);
}
function disconnect() {
  if (live.source) live.source.close();
  live.source = null;
}
function update({ html, classes }) {
  const at = document.activeElement && document.activeElement.id;
  for (const [id, text] of Object.entries(html)) {
    const element = document.getElementById(id);
    if (!element || $("dialog[open], details.menu[open]", element) || element.contains(document.activeElement) && document.activeElement.matches("input:not([type=checkbox]),textarea,select")) continue;
    const known = new Set($$("tr[id]", element).map((row) => row.id)), had = known.size > 0;
    const selected = new Set($$("input[data-pick]:checked", element).map((box) => box.value));
    const row = $("tr.at", element);
    const unfolded = $$("details", element).map((one) => one.open);
    element.innerHTML = text;
    const folds = $$("details", element);
    if (folds.length === unfolded.length) folds.forEach((one, n) => { one.open = unfolded[n]; });
    if (had) for (const one of $$("tr[id]", element)) if (!known.has(one.id)) one.classList.add("new");
    for (const box of $$("input[data-pick]", element)) box.checked = selected.has(box.value);
    if (row && row.id) document.getElementById(row.id)?.classList.add("at");
    tellTimes(element);
  }
  for (const [id, value] of Object.entries(classes)) document.getElementById(id)?.setAttribute("class", value);
  if (at && document.activeElement.id !== at) document.getElementById(at)?.focus();
  document.dispatchEvent(new CustomEvent("console:update"));
}
function togglePause() {
  const button = $("#live");
  if (!button) return;
  live.paused = !live.paused;
  button.setAttribute("aria-pressed", String(!live.paused));
  $("span", button).textContent = live.paused ? "Paused" : "Live";
  if (live.paused) disconnect(); else connect();
}

// --- rows ---
function moveRow(by) {
  const rows = $$("[data-rows] tbody tr");
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.classList.contains("at"));
  const next = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
  rows[at]?.classList.remove("at");
  next.classList.add("at");
  next.scrollIntoView({ block: "nearest" });
  say(next.innerText);
}

// --- dialogs ---
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-dialog]");
  if (opener) document.getElementById(opener.dataset.dialog)?.showModal();
  if (event.target.closest("[data-close]") || event.target.nodeName === "DIALOG") event.target.closest("dialog").close();
  const copier = event.target.closest("[data-copy]");
  if (copier) navigator.clipboard?.writeText(copier.dataset.copy).then(() => say("Copied"));
  if (event.target.closest("#theme")) toggleTheme();
  if (event.target.closest("#live")) togglePause();
});
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-auto] select, [data-auto] input")) event.target.form.requestSubmit();
});
document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-auto]")) return;
  for (const field of event.target.elements) if (!field.value) field.disabled = true; // a short address
});

// --- keys ---
let leader = 0;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]),textarea,select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if ($("dialog[open]")) return;
  if (Date.now() - leader < 1500) {
    leader = 0;
    const link = $(`[data-key="g ${CSS.escape(event.key)}"]`);
    if (link) link.click();
    return;
  }
  const row = $("tr.at");
  const keys = {
    "/": () => $("#search").focus(), "?": () => $("#help").showModal(), t: toggleTheme, p: togglePause,
    g: () => { leader = Date.now(); }, j: () => moveRow(1), k: () => moveRow(-1),
    x: () => row && $("input[data-pick]", row)?.click(), Enter: () => row && event.target === document.body && $("a", row)?.click(),
  };
  if (keys[event.key]) {
    if (event.key !== "Enter") event.preventDefault();
    keys[event.key]();
  }
});
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
addEventListener("pagehide", disconnect);
addEventListener("pageshow", connect);
tellTimes();
setInterval(tellTimes, 1000);
connect();
