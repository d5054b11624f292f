// A task service in Node: serves the tasks below until SIGTERM.
//
//   NATS_URL=nats://127.0.0.1:4222 node service.mjs
//
// A task is a request on `task.<url>` with a JSON object; `state` is the flow's state so far. The reply is a JSON
// object too: `changes` for success, `error` for failure, or a wish: to wait for a person (`interrupt`) or an event (`wait`),
// to run another workflow (`subgraph`), to be run again (`retry`). See docs/task-services.md.
//
// At the end stands a service that knows nothing of workflows: a node of a graph asks it all the same (`request`).
import { connect, headers } from "@nats-io/transport-node";

const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  name: "node-tasks",
  maxReconnectAttempts: -1,
});
const prefix = process.env.TASK_PREFIX ?? "task";

const tasks = {
  "node.quote": async ({ state }) => {
    const total = state.items.reduce((sum, item) => sum + item.price * item.count, 0);
    return { changes: { total } };
  },

  "node.charge": async ({ state, stepKey }) => {
    if (state.total > state.limit) {
      throw Object.assign(new Error(`card declined: ${state.total} is over the limit`), { code: 402 });
    }
    // The step key is the same each time this step runs: what a bank needs to charge only once.
    return { changes: { receipt: `receipt-${stepKey.split("-")[1]}`, items: null } };
  },

  // Waits for a person. The flow is interrupted with this payload; once somebody has resumed it, this runs again and
  // finds the answer in `resumed`.
  "node.approve": async ({ state, resumed }) => {
    if (!resumed) {
      return { changes: { askedFor: state.city }, interrupt: { question: `May this go to ${state.city}?` } };
    }
    if (!resumed.data?.by) {
      throw Object.assign(new Error("nobody put their name to it"), { code: 403 });
    }
    return { changes: { approvedBy: resumed.data.by } };
  },

  // Runs another workflow with `input` as its state. Once that has ended, this runs again and finds the final state, or
  // the error, in `subgraph`.
  "node.ship": async ({ state, subgraph }) => {
    if (!subgraph) {
      return { subgraph: { workflow: "node-shipping", input: { city: state.city } } };
    }
    if (subgraph.error !== undefined) {
      throw Object.assign(new Error(`not shipped: ${subgraph.error}`), { code: 502 });
    }
    return { changes: { tracking: subgraph.result.tracking } };
  },

  // Fails the first two times and asks to be run again, each time a little later. The error is for the day it gives up.
  "node.label": async ({ state, attempt }) => {
    if (attempt < 2) {
      return {
        retry: { maxAttempts: state.patience ?? 5, initialDelayMs: 20, multiplier: 2 },
        error: { message: "the printer is out of paper", code: 504 },
      };
    }
    return { changes: { tracking: `${state.city.toUpperCase()}-${attempt}` } };
  },

  // Waits for an event, whoever signals it: it may come before this asks. When it has come, or its time has passed, this
  // runs again with `event`.
  "node.payment": async ({ state, event }) => {
    if (!event) {
      return { wait: { event: "node.paid", key: state.order, timeoutMs: state.patience ?? 86_400_000 } };
    }
    if (event.timedOut) {
      return { changes: { paid: false } };
    }
    return { changes: { paid: true, amount: event.data.amount } };
  },

  // Waits for a person, but not for ever: `interruptTimeoutMs`.
  "node.sign": async ({ state, resumed }) => {
    if (!resumed) {
      return { interrupt: { sign: state.order }, interruptTimeoutMs: state.patience ?? 86_400_000 };
    }
    return { changes: { signedBy: resumed.timedOut ? "nobody" : resumed.data } };
  },

  // Says nothing of another attempt: `retry` and `timeoutMs` of its node in the graph do. The first answer comes too late,
  // the second is an error.
  "node.bank": async ({ attempt }) => {
    if (attempt === 0) {
      await new Promise((resolve) => setTimeout(resolve, 2_000));
    }
    if (attempt === 1) {
      throw Object.assign(new Error("the bank is closed"), { code: 500 });
    }
    return { changes: { booked: attempt } };
  },

  // The same error in the way of NATS services: code and text as headers.
  "node.refuse": async () => {
    const error = headers();
    error.set("Nats-Service-Error-Code", "418");
    error.set("Nats-Service-Error", "short and stout");
    return { headers: error };
  },
};

// When a step takes long, say so: the engine then asks on our private subject which steps we still have in hand.
const inHand = new Set();
const privateSubject = `_INBOX.node.${crypto.randomUUID()}`;
nc.subscribe(privateSubject, {
  callback: (error, msg) => {
    if (error) return;
    const { steps } = msg.json();
    if (msg.reply) msg.respond(JSON.stringify({ running: steps.filter((step) => inHand.has(step)) }));
  },
});

async function serve(msg, task) {
  let request;
  try {
    request = msg.json();
  } catch (error) {
    msg.respond(JSON.stringify({ error: { message: `malformed request: ${error.message}`, code: 400 } }));
    return;
  }
  const step = request.stepKey.split("-").slice(0, 2).join("-");
  inHand.add(step);
  const accepted = setTimeout(() => {
    const signal = headers();
    signal.set("Dwarf-Signal", "accepted");
    signal.set("Dwarf-Worker", privateSubject);
    nc.publish(msg.reply, "", { headers: signal });
  }, Number(msg.headers?.get("Dwarf-Accept-Ms") || 1000));
  try {
    const { headers: withHeaders, ...reply } = await task(request);
    msg.respond(withHeaders ? "" : JSON.stringify(reply), { headers: withHeaders });
  } catch (error) {
    msg.respond(JSON.stringify({ error: { message: error.message, code: error.code ?? 500 } }));
  } finally {
    clearTimeout(accepted);
    inHand.delete(step);
  }
}

const working = new Set();
const subscriptions = Object.entries(tasks).map(([url, task]) =>
  nc.subscribe(`${prefix}.${url}`, {
    queue: "node-tasks",
    callback: (error, msg) => {
      if (error) return;
      const work = serve(msg, task).finally(() => working.delete(work));
      working.add(work);
    },
  }),
);

// A service that was there before: any JSON in, any JSON out, errors in the way of NATS services.
const rates = { EUR: 1, NOK: 11.5 };
nc.subscribe("node.rates.*", {
  queue: "node-rates",
  callback: (error, msg) => {
    if (error) return;
    const currency = msg.subject.split(".")[2];
    if (currency in rates) {
      msg.respond(JSON.stringify({ currency, rate: rates[currency], of: msg.json().total }));
    } else {
      const refusal = headers();
      refusal.set("Nats-Service-Error-Code", "404");
      refusal.set("Nats-Service-Error", `no rate of ${currency}`);
      msg.respond("", { headers: refusal });
    }
  },
});
await nc.flush();
console.log(`serving ${Object.keys(tasks).join(", ")}`);

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, async () => {
    // Takes no more requests, answers those it has begun, and only then leaves NATS.
    await Promise.all(subscriptions.map((subscription) => subscription.drain()));
    await Promise.all(working);
    await nc.drain();
    process.exit(0);
  });
}
