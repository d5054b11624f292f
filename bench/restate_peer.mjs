// Workers of Restate on its TypeScript SDK, as `workers` of restate_peer.py: node restate_peer.mjs FOLDER STEPS.
// FOLDER has the SDK in its node_modules. Answers every line with its port; ends when stdin does.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// The SDK needs it and Node.js 20 lacks it: without it, every call hangs.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new this((yes, no) => ([resolve, reject] = [yes, no]));
  return { promise, resolve, reject };
};

const [folder, steps] = process.argv.slice(2);
const restate = createRequire(`${folder}/`)("@restatedev/restate-sdk");

const tasks = restate.service({
  name: "Tasks",
  handlers: { count: async (_context, state) => ({ n: state.n + 1 }) },
});

const line = restate.service({
  name: "Line",
  handlers: {
    run: async (context, state) => {
      for (let step = 0; step < Number(steps); step++) {
        const before = state;
        state = { ...state, ...(await context.run("count", () => ({ n: before.n + 1 }))) };
      }
      return state;
    },
    chained: async (context, state) => {
      for (let step = 0; step < Number(steps); step++) {
        state = { ...state, ...(await context.serviceClient(tasks).count(state)) };
      }
      return state;
    },
  },
});

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const port = await restate
  .endpoint()
  .bind(line)
  .bind(tasks)
  .setLogger((meta, ...said) => meta.level === "error" && console.error(...said)) // stdout is the parent's
  .listen(0);
say({ ready: true });
createInterface({ input: process.stdin })
  .on("line", () => say({ port }))
  .on("close", () => process.exit(0));
