// --- selection, and one operation for each selected flow ---
const picked = () => $$("input[data-pick]:checked");
function tellPicked() {
  const count = picked().length, bar = $("#bulk");
  if (!bar) return;
  bar.hidden = !count;
  for (const one of $$("[data-picked]")) one.textContent = count;
  const all = $("[data-pick-all]"), boxes = $$("input[data-pick]").length;
  if (all) { all.checked = count > 0 && count === boxes; all.indeterminate = count > 0 && count < boxes; }
}
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-pick-all]")) for (const box of $$("input[data-pick]")) box.checked = event.target.checked;
  if (event.target.matches("[data-pick-all],[data-pick]")) tellPicked();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest("[data-pick-none]")) return;
  for (const box of picked()) box.checked = false;
  tellPicked();
});
document.addEventListener("console:update", tellPicked);
async function act(operation, fields) {
  const body = new URLSearchParams({ ...fields, csrf: $('meta[name="csrf"]').content });
  const response = await fetch(`/act/${operation}`, { method: "POST", body, headers: { Accept: "application/json" } });
  const found = await response.json().catch(() => ({}));
  return response.ok ? "" : (found.error || {}).message || `error ${response.status}`;
}
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("[data-bulk]")) return;
  event.preventDefault();
  const ids = picked().map((box) => box.value), bar = $("progress", form), result = $("[data-result]", form), button = $(".danger", form);
  const more = Object.fromEntries([...new FormData(form)].filter(([, value]) => value));
  bar.hidden = false; bar.max = ids.length; bar.value = 0; button.disabled = true;
  const failed = [];
  for (const [place, id] of ids.entries()) {
    const why = await act(form.dataset.bulk, { ...more, flowKey: id }).catch(String);
    if (why) failed.push(`${id}: ${why}`);
    bar.value = place + 1;
    result.textContent = `${place + 1 - failed.length} of ${ids.length} done` + (failed.length ? `, ${failed.length} refused. ${failed[0]}` : "");
  }
  button.disabled = false;
  if (!failed.length) { for (const box of picked()) box.checked = false; form.closest("dialog").close(); say(result.textContent); }
  tellPicked();
});
