// One flow: the drawer, the graph's zoom, forms that are sent without leaving the page, previews of an edited state.
const drawer = { url: "", timer: 0, from: null };
async function openDrawer(url, keep) {
  const box = $("#drawer");
  const response = await fetch(url, { headers: { "X-Part": "drawer" } });
  const text = await response.text();
  if (!response.ok) return say("It cannot be read now");
  if (keep && ($("dialog[open]", box) || box.contains(document.activeElement) && document.activeElement.matches("textarea,input,select"))) return;
  const top = box.scrollTop, open = keep ? $$("details", box).map((one) => one.open) : [];
  box.innerHTML = text;
  if (keep) $$("details", box).forEach((one, n) => { if (n < open.length) one.open = open[n]; });
  box.hidden = false;
  drawer.url = url;
  tellTimes(box);
  if (keep) box.scrollTop = top;
  else { box.scrollTop = 0; history.replaceState(null, "", url); box.focus({ preventScroll: true }); }
}
function closeDrawer() {
  const box = $("#drawer");
  if (!box || box.hidden) return;
  const link = $("[data-close-drawer]", box);
  if (link) history.replaceState(null, "", link.getAttribute("href") === "?" ? location.pathname : link.getAttribute("href"));
  box.hidden = true;
  box.textContent = "";
  drawer.url = "";
  if (drawer.from && drawer.from.isConnected) drawer.from.focus({ preventScroll: true });
}
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-drawer]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && $("#drawer")) {
    event.preventDefault();
    if (!$("#drawer").contains(link)) drawer.from = link;
    openDrawer(new URL(link.getAttribute("href"), location.href).href);
  }
  if (event.target.closest("[data-close-drawer]")) { event.preventDefault(); closeDrawer(); }
  const zoomer = event.target.closest("[data-zoom]");
  if (zoomer) zoom(Number(zoomer.dataset.zoom));
  for (const menu of $$("details.menu[open]")) if (!menu.contains(event.target) || event.target.closest("[data-dialog]")) menu.open = false;
});
document.addEventListener("console:update", () => {
  if (!drawer.url || !$("#drawer [data-alive]") || drawer.timer) return;
  drawer.timer = setTimeout(() => { drawer.timer = 0; if (drawer.url) openDrawer(drawer.url, true); }, 300);
});

// --- the graph ---
const graph = $(".flow-graph .graph"), line = $("#flow-timeline");
let scale = 1;
function scaleTo(value) {
  const frame = graph.parentElement, { width, height } = graph.viewBox.baseVal;
  const x = (frame.scrollLeft + frame.clientWidth / 2) / scale, y = (frame.scrollTop + frame.clientHeight / 2) / scale;
  scale = Math.min(2, Math.max(0.25, value));
  graph.setAttribute("width", width * scale);
  graph.setAttribute("height", height * scale);
  frame.scrollLeft = x * scale - frame.clientWidth / 2;
  frame.scrollTop = y * scale - frame.clientHeight / 2;
}
function zoom(by) {
  if (line) return zoomTime(by);
  if (!graph) return;
  const frame = graph.parentElement, { width, height } = graph.viewBox.baseVal;
  scaleTo(by ? scale * (by > 0 ? 1.25 : 0.8) : Math.min(1, (frame.clientWidth - 2) / width, Math.max(0.5, (frame.clientHeight - 2) / height)));
}
if (graph) {
  const frame = graph.parentElement;
  let pan = null;
  frame.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button || event.target.closest("a")) return;
    pan = { x: event.clientX + frame.scrollLeft, y: event.clientY + frame.scrollTop };
    frame.classList.add("panning");
  });
  addEventListener("pointermove", (event) => { if (pan) { frame.scrollLeft = pan.x - event.clientX; frame.scrollTop = pan.y - event.clientY; } });
  addEventListener("pointerup", () => { pan = null; frame.classList.remove("panning"); });
  frame.addEventListener("wheel", (event) => { if (event.ctrlKey) { event.preventDefault(); scaleTo(scale * (event.deltaY < 0 ? 1.1 : 0.9)); } }, { passive: false });
  if (graph.viewBox.baseVal.width > frame.clientWidth) zoom(0);
}

// --- the timeline ---
// What is shown is kept as times, since the places of a running flow move.
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23" });
let shown = null, held = null, pointed = 0.5;
const tell = (seconds) => "+" + (seconds < 60 ? `${seconds.toFixed(3)} s` : span(seconds));
function across(value, a, b) {
  const every = JSON.parse($(".tl", line).dataset.scale), one = every.find((each) => value <= each[a + 1]) || every[every.length - 1];
  return one[b] + (one[b + 1] - one[b]) * Math.min(1, Math.max(0, (value - one[a]) / (one[a + 1] - one[a] || 1)));
}
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 15000, 30000, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 144e5, 432e5, 864e5];
function markTimes() {
  const axis = $(".tl-axis svg", line);
  for (const one of $$(".fine", axis)) one.remove();
  if (!shown) return;
  const [from, to] = shown.map((time) => 1000 * time), step = STEPS.find((one) => (to - from) / one <= 7) || Math.ceil((to - from) / 864e5 / 7) * 864e5;
  for (let at = Math.ceil(from / step) * step; at < to; at += step) {
    const left = `${100 * across(at / 1000, 2, 0)}%`, seconds = at / 1000, rest = step < 1000 ? (seconds % 60).toFixed(step < 10 ? 3 : step < 100 ? 2 : 1) : Math.floor(seconds % 60);
    for (const [name, values, text] of [["line", { x1: left, x2: left, y1: 20, y2: 28 }, ""], ["text", { x: left, y: 15 }, `+${seconds < 60 ? "" : `${span(seconds - seconds % 60)} `}${seconds < 60 || step < 6e4 ? `${rest} s` : ""}`.trim()]]) {
      const one = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(values)) one.setAttribute(key, value);
      one.setAttribute("class", "fine");
      one.textContent = text;
      axis.append(one);
    }
  }
}
function showTimes() {
  if (!$(".tl", line)) return;
  const [first, last] = shown ? shown.map((time) => across(time, 2, 0)) : [0, 1], size = Math.max(last - first, 1e-4);
  line.style.setProperty("--zoom", 1 / size);
  line.style.setProperty("--from", `${-100 * first / size}%`);
  line.classList.toggle("zoomed", Boolean(shown));
  markTimes();
  $(".tl-shown", line).textContent = shown ? `${tell(shown[0])} to ${tell(shown[1])}` : "";
}
function zoomTo(first, last) {
  const size = Math.min(1, Math.max(1e-3, last - first)), from = Math.min(1 - size, Math.max(0, (first + last - size) / 2));
  shown = size < 1 ? [across(from, 0, 2), across(from + size, 0, 2)] : null;
  showTimes();
}
function zoomTime(by) {
  if (!$(".tl", line)) return;
  const [first, last] = shown ? shown.map((time) => across(time, 2, 0)) : [0, 1], size = (last - first) * (by > 0 ? 0.5 : 2);
  const at = by > 0 && pointed > first && pointed < last ? pointed : (first + last) / 2;
  if (by) zoomTo(at - size / 2, at + size / 2); else zoomTo(0, 1);
  say($(".tl-shown", line).textContent || "The whole time");
}
if (line) {
  const place = (event) => {
    const axis = $(".tl-axis svg", line).getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - axis.left) / axis.width));
  };
  const point = (event) => {
    const cursor = $(".tl-cursor", line);
    if (!cursor) return;
    cursor.hidden = !held && !event.target.closest(".tl-bars");
    if (cursor.hidden) return;
    const table = $(".tl", line), box = table.getBoundingClientRect(), share = pointed = place(event), time = across(share, 0, 2), from = held ? Math.min(held.x, event.clientX) : event.clientX;
    cursor.style.left = `${from - box.left}px`;
    cursor.style.width = `${held ? Math.abs(event.clientX - held.x) : 0}px`;
    cursor.classList.toggle("range", Boolean(held));
    cursor.classList.toggle("left", !held && event.clientX > box.left + box.width * 0.7);
    $("span", cursor).textContent = held ? `${tell(Math.abs(time - across(held.share, 0, 2)))} long`.slice(1) : `${tell(time)} · ${CLOCK.format(Date.parse(table.dataset.start) + 1000 * time)}`;
  };
  line.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && !event.button && event.target.closest(".tl-bars")) held = { x: event.clientX, share: place(event) };
  });
  line.addEventListener("pointerleave", () => { if (!held) $(".tl-cursor", line)?.setAttribute("hidden", ""); });
  addEventListener("pointermove", (event) => { if (held || line.contains(event.target)) point(event); });
  addEventListener("pointerup", (event) => {
    const from = held;
    held = null;
    if (from && Math.abs(event.clientX - from.x) > 4) zoomTo(...[from.share, place(event)].sort((a, b) => a - b));
    if (from) point(event);
  });
  document.addEventListener("console:update", showTimes);
}

// --- keys ---
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input:not([type=checkbox]),textarea,select") || event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
  if (event.key === "Escape") closeDrawer();
  if ((graph || line) && { "+": 1, "-": -1, 0: 0 }[event.key] !== undefined) zoom({ "+": 1, "-": -1, 0: 0 }[event.key]);
});
$$(".tabs a").forEach((link, n) => { link.dataset.key = `g ${n + 1}`; });

// --- forms in dialogs ---
// The token of this page: a form that a live change brought has none, since one change is sent to all who look.
const token = () => ({ "X-CSRF": $("meta[name=csrf]").content });
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method !== "post" || !form.closest("dialog") || "whole" in form.dataset) return;
  event.preventDefault();
  const button = event.submitter, problem = $(".problem[role=alert]", form) || form.insertBefore(Object.assign(document.createElement("p"), { className: "problem" }), $(".buttons", form));
  problem.setAttribute("role", "alert");
  problem.hidden = true;
  if (button) button.disabled = true;
  try {
    const response = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), headers: { Accept: "application/json", ...token() } });
    const reply = await response.json();
    if (!response.ok) throw new Error(reply.error.message);
    const location_ = new URL(reply.location || location.href, location.href);
    if (location_.pathname.split("/").slice(0, 3).join("/") !== location.pathname.split("/").slice(0, 3).join("/")) return location.assign(location_);
    form.closest("dialog").close();
    toast(reply.done);
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  } finally {
    if (button) button.disabled = false;
  }
});
function toast(text) {
  $(".toast.sent")?.remove();
  const one = document.createElement("p");
  one.className = "toast sent";
  one.textContent = text;
  $("#main").prepend(one);
  say(text);
  setTimeout(() => one.remove(), 6000);
}
document.addEventListener("close", () => { disconnect(); connect(); }, true); // changes that an open dialog held up
let previewing = 0;
document.addEventListener("input", (event) => {
  const field = event.target;
  if (!field.matches("[data-preview]")) return;
  clearTimeout(previewing);
  previewing = setTimeout(async () => {
    const response = await fetch(field.dataset.preview, { method: "POST", body: new URLSearchParams(new FormData(field.form)), headers: token() });
    $(".preview", field.form).innerHTML = response.ok ? await response.text() : "";
    const bad = Boolean($(".preview .problem", field.form));
    field.setAttribute("aria-invalid", String(bad));
    $(".buttons .primary", field.form).disabled = bad;
  }, 300);
});
