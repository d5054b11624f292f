// A caller in Node: registers workflows, runs them, answers one that waits for a person, reads histories, and shows what
// refusals look like.
// Prints one JSON object per line.
//
//   NATS_URL=nats://127.0.0.1:4222 node client.mjs
import { connect, headers } from "@nats-io/transport-node";

const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222", name: "node-client" });
const prefix = process.env.DWARF_PREFIX ?? "dwarf";

// Ask for an operation. A refusal has the headers Nats-Service-Error-Code and Nats-Service-Error.
async function ask(operation, request = {}, options = {}) {
  const reply = await nc.request(`${prefix}.${operation}`, JSON.stringify(request), { timeout: 35_000, ...options });
  const code = reply.headers?.get("Nats-Service-Error-Code");
  if (code) {
    const text = decodeURIComponent(reply.headers.get("Nats-Service-Error"));
    return { refused: Number(code), text, ...reply.json() };
  }
  return reply.json();
}

const show = (name, value) => console.log(JSON.stringify({ name, value }));

await ask("graph.put", {
  name: "node-order",
  entryPoint: "quote",
  tasks: [
    { name: "quote", url: "node.quote" },
    { name: "charge", url: "node.charge" },
  ],
  transitions: [
    { from: "quote", to: "charge" },
    { from: "charge", to: "END" },
  ],
});

const items = [
  { price: 1999, count: 2 },
  { price: 499, count: 1 },
];
const done = await ask("flow.run", { workflow: "node-order", state: { items, limit: 10_000 } });
show("run", done);
show("history", await ask("flow.history", { flowKey: done.flowKey }));
show("declined", await ask("flow.run", { workflow: "node-order", state: { items, limit: 1 } }));

// An idempotency key in the header: the second create returns the flow of the first.
const key = headers();
key.set("Nats-Msg-Id", `node-${process.pid}`);
const create = { workflow: "node-order", state: { items, limit: 10_000 } };
const first = await ask("flow.create", create, { headers: key });
const second = await ask("flow.create", create, { headers: key });
show("idempotent", first.flowKey === second.flowKey);
await ask("flow.start", { flowKey: first.flowKey });
show("await", await ask("flow.await", { flowKey: first.flowKey, timeoutMs: 20_000 }));

// A flow that waits for a person, then for another workflow.
const single = (name, url) => ({ name, tasks: [{ name: url, url }], transitions: [{ from: url, to: "END" }] });
await ask("graph.put", single("node-shipping", "node.label"));
await ask("graph.put", {
  name: "node-parcel",
  tasks: [
    { name: "approve", url: "node.approve" },
    { name: "ship", url: "node.ship" },
  ],
  transitions: [
    { from: "approve", to: "ship" },
    { from: "ship", to: "END" },
  ],
});
const parcel = await ask("flow.create", { workflow: "node-parcel", state: { city: "Oslo" }, start: true });
show("paused", await ask("flow.await", { ...parcel, timeoutMs: 20_000 }));
await ask("flow.resume", { ...parcel, data: { by: "ada" } });
show("shipped", await ask("flow.await", { ...parcel, timeoutMs: 20_000 }));
show("nested", await ask("flow.history", parcel));

// A service that knows nothing of workflows, asked by a node; and a node with a budget and attempts of its own.
await ask("graph.put", {
  name: "node-bill",
  entryPoint: "rate",
  tasks: [
    { name: "rate", request: { subject: "='node.rates.' + currency", payload: { total: "=total" } }, timeoutMs: 5_000 },
    { name: "bank", url: "node.bank", timeoutMs: 500, retry: { maxAttempts: 3, initialDelayMs: 20, multiplier: 2 } },
    { name: "bill", set: { bill: "=double(rate.of) * rate.rate" } },
  ],
  transitions: [
    { from: "rate", to: "bank" },
    { from: "bank", to: "bill" },
    { from: "bill", to: "END" },
  ],
});
const billed = await ask("flow.run", { workflow: "node-bill", state: { currency: "NOK", total: 100 } });
show("billed", billed);
show("attempts", await ask("flow.history", { flowKey: billed.flowKey }));
show("no rate", await ask("flow.run", { workflow: "node-bill", state: { currency: "XXX", total: 100 } }));

// An event: the one comes before anybody waits and is kept, the other while a flow waits; a third never comes.
const pays = (order, amount) => ask("flow.signal", { event: "node.paid", key: order, data: { amount }, id: `${order}-paid` });
const wait = (order, patience) =>
  ask("flow.create_task", { task: "node.payment", state: { order, ...(patience && { patience }) }, start: true });
const order = `order-${process.pid}`;
show("early", await pays(`${order}-a`, 5));
show("paid early", await ask("flow.await", { ...(await wait(`${order}-a`)), timeoutMs: 20_000 }));
const waiting = await wait(`${order}-b`);
show("signalled", await pays(`${order}-b`, 7));
show("paid", await ask("flow.await", { ...waiting, timeoutMs: 20_000 }));
show("unpaid", await ask("flow.await", { ...(await wait(`${order}-c`, 50)), timeoutMs: 20_000 }));

// A person who does not come in time.
const unsigned = await ask("flow.create_task", { task: "node.sign", state: { order, patience: 50 }, start: true });
let signed;
do {
  signed = await ask("flow.await", { ...unsigned, timeoutMs: 20_000 });
} while (signed.status === "interrupted");
show("unsigned", signed);

await ask("flow.create_task", { task: "node.refuse", start: true }).then(async ({ flowKey }) =>
  show("refuse", await ask("flow.await", { flowKey, timeoutMs: 20_000 })),
);
show("unknown workflow", await ask("flow.run", { workflow: "no-such-workflow" }));
show("unknown field", await ask("flow.run", { workflo: "node-order" }));
show("wrong status", await ask("flow.cancel", { flowKey: done.flowKey }));
await nc.drain();
