// What @sentry/node reports of each request of a small Express app, as lines of JSON.
//   node scenarios.cjs OUTPUT '{"sendDefaultPii": false}'
const Sentry = require("@sentry/node");

const { integrationInclude, ...options } = JSON.parse(process.argv[3] || "{}");
const sent = [];
const transport = (settings) =>
  Sentry.createTransport(settings, (request) => {
    const lines = Buffer.from(request.body).toString().split("\n");
    for (let i = 1; i + 1 < lines.length; i += 2) {
      sent.push([JSON.parse(lines[i]).type, JSON.parse(lines[i + 1])]);
    }
    return Promise.resolve({ statusCode: 200 });
  });
if (integrationInclude) {
  options.integrations = [Sentry.requestDataIntegration({ include: integrationInclude })];
}
Sentry.init({ dsn: "https://key@sentry.example/1", transport, tracesSampleRate: 1, ...options });

const express = require("express");
const app = express();
const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));
const report = (name) => Sentry.captureMessage(name);

const SCENARIOS = {
  "nobody": () => report("nobody"),
  "somebody": () => { Sentry.setUser({ id: 7, plan: "pro" }); report("somebody"); },
  "an address": () => { Sentry.setUser({ id: 7, ip_address: "203.0.113.9" }); report("an address"); },
  "auto": () => { Sentry.setUser({ id: 7, ip_address: "{{auto}}" }); report("auto"); },
  "taken back": () => { Sentry.setUser({ id: 7 }); Sentry.setUser(null); report("taken back"); },
  "empty": () => { Sentry.setUser({}); report("empty"); },
  "extras": () => { Sentry.setUser({ plan: "pro" }); report("extras"); },
  "blank": () => { Sentry.setUser({ id: null, username: "" }); report("blank"); },
  "twice": () => {
    Sentry.setUser({ id: 1, email: "ada@shop.example" });
    Sentry.setUser({ id: 2 });
    report("twice");
  },
  "within": () => {
    Sentry.setUser({ id: 1, email: "ada@shop.example" });
    Sentry.withScope((scope) => { scope.setUser({ id: 2 }); report("within"); });
  },
  "after": () => { Sentry.setUser({ id: 7 }); setTimeout(() => report("after"), 50); },
  "rejected": () => { Sentry.setUser({ id: 7 }); Promise.reject(new Error("rejected")); },
  "forwarded": () => report("forwarded"),
  "body": () => report("body"),
};

app.all("/apart/:id", async (request, response) => {
  Sentry.setUser({ id: Number(request.params.id) });
  await wait(30);
  report(`apart ${request.params.id}`);
  response.end();
});
app.all("/:name", express.json(), (request, response) => {
  SCENARIOS[request.params.name]();
  response.end();
});

const server = app.listen(0, "127.0.0.1", async () => {
  const root = `http://127.0.0.1:${server.address().port}`;
  for (const name of Object.keys(SCENARIOS)) {
    const headers = name === "forwarded" ? { "x-forwarded-for": "198.51.100.7, 10.0.0.2" } : {};
    const more = name !== "body" ? {} : {
      method: "POST", body: JSON.stringify({ name: "ada", password: "hunter2" }),
    };
    if (more.body) headers["content-type"] = "application/json";
    await (await fetch(`${root}/${encodeURIComponent(name)}`, { headers, ...more })).text();
  }
  await Promise.all([1, 2, 3].map((id) => fetch(`${root}/apart/${id}`)));
  await wait(100);
  await Sentry.flush(5000);
  const lines = sent.map((item) => JSON.stringify(item) + "\n");
  require("node:fs").writeFileSync(process.argv[2], lines.join(""));
  process.exit(0);
});
