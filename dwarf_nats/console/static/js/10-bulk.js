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
async function ask(operation, fields) {
  const body = new URLSearchParams({ ...fields, csrf: $('meta[name="csrf"]').content });
  const response = await fetch(`/act/${operation}`, { method: "POST", body, headers: { Accept: "application/json" } });
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error((found.error || {}).message || `error ${response.status}`);
  return found.reply || {};
}
const act = (operation, fields) => ask(operation, fields).then(() => "", (error) => error.message);
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

// --- one operation for all flows that match the filters: counted first, then page after page ---
function countAgain(form) {
  form.dataset.counted = form.dataset.cursor = "";
  $("[data-result]", form).textContent = "";
  $("progress", form).hidden = true;
  $(".danger", form).textContent = "Count them";
}
document.addEventListener("change", (event) => {
  const form = event.target.closest("[data-bulk-all]");
  if (!form || event.target.name !== "action") return;
  countAgain(form);
  for (const one of form.querySelectorAll("[data-for]")) one.hidden = one.dataset.for !== event.target.value;
});
async function pages(form, fields, page) {
  do {
    const cursor = form.dataset.cursor ? { cursor: form.dataset.cursor } : {};
    const found = await ask("flow.bulk", { ...fields, ...cursor });
    form.dataset.cursor = found.cursor || "";
    page(found);
  } while (form.dataset.cursor && form.closest("dialog").open);
}
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("[data-bulk-all]")) return;
  event.preventDefault();
  const bar = $("progress", form), result = $("[data-result]", form), button = $(".danger", form), what = $("select", form);
  const fields = { action: what.value, query: form.dataset.query, ...(form.reason.value && { reason: form.reason.value }) };
  for (const one of form.querySelectorAll("[data-for]:not([hidden]) input")) if (one.value.trim()) fields[one.name] = one.value;
  button.disabled = what.disabled = true;
  try {
    if (!form.dataset.counted) {
      let count = 0;
      await pages(form, { ...fields, dryRun: "true" }, (page) => { result.textContent = `${(count += page.matched)} flows match.`; });
      form.dataset.counted = count; form.dataset.seen = form.dataset.done = 0;
      button.textContent = `${what.selectedOptions[0].textContent}: ${count} flows`;
    } else {
      bar.hidden = false; bar.max = Math.max(1, Number(form.dataset.counted));
      let why = "";
      // Begun with a cursor, so that a page whose reply was lost does nothing twice when it is asked for again.
      if (!form.dataset.cursor) form.dataset.cursor = (await ask("flow.bulk", { ...fields, limit: "0" })).cursor || "";
      await pages(form, fields, (page) => {
        form.dataset.seen = bar.value = Number(form.dataset.seen) + page.matched; form.dataset.done = Number(form.dataset.done) + page.done;
        for (const one of page.failed || []) why = why || ` ${one.flowId}: ${one.message}`;
        result.textContent = `${form.dataset.done} done, ${form.dataset.seen - form.dataset.done} refused.${why}`;
      });
      if (!form.dataset.cursor) { const text = result.textContent; countAgain(form); result.textContent = text; }
    }
  } catch (error) {
    result.textContent += ` ${error.message} Press again to go on.`;
  }
  button.disabled = what.disabled = false;
});
