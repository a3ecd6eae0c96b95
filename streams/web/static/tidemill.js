// Keeps a page fresh without reloading it, and sends what its buttons and forms ask for as JSON.
"use strict";
const main = () => document.querySelector("main");
const badge = document.getElementById("live");
let busy = false, again = false;

async function refresh() {
  if (busy) { again = true; return; }
  if (document.hidden || main().contains(document.activeElement) && document.activeElement.matches("input, select, textarea")) return;
  busy = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = new Set([...main().querySelectorAll("details[open]")].map(each => each.id));
    const said = main().querySelector(".said")?.innerHTML, focus = document.activeElement?.dataset?.post;
    main().innerHTML = fresh.querySelector("main").innerHTML;
    for (const each of main().querySelectorAll("details")) each.open = open.has(each.id);
    if (said && main().querySelector(".said")) main().querySelector(".said").innerHTML = said;
    if (focus) main().querySelector(`button[data-post="${focus}"]`)?.focus();
    document.title = fresh.title;
    follow(fresh.querySelector("main").dataset.live);
    tell(answer.ok ? "live" : "waiting for the ledger", answer.ok);
  } catch { tell("not connected", false); }
  busy = false;
  if (again) { again = false; refresh(); }
}

function tell(text, good) {
  badge.hidden = false;
  badge.textContent = text;
  badge.classList.toggle("off", !good);
}

let stream = null, timer = null, source = null;
function follow(live) {
  if (live === source) return;
  source = live;
  stream?.close(); stream = null; clearInterval(timer);
  if (!live) return;
  if (live === "poll") { timer = setInterval(refresh, 3000); return; }
  stream = new EventSource(live);
  for (const kind of ["requested", "accepted", "merged", "started", "step", "finished", "cancel", "reopened", "set_aside"]) stream.addEventListener(kind, () => setTimeout(refresh, 50));
  stream.onopen = () => tell("live", true);
  stream.onerror = () => tell("not connected", false);
  timer = setInterval(refresh, 5000); // retries and leases move without a journal entry
}

async function send(path, body) {
  const said = main().querySelector(".said");
  said.textContent = "Sending …";
  try {
    const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const facts = await answer.json();
    said.textContent = answer.ok ? `Accepted (${facts.result})` : `${facts.code}: ${facts.message}`;
    if (answer.ok && facts.run_id && !location.pathname.includes(facts.run_id)) {
      const link = document.createElement("a");
      link.href = `/runs/${facts.run_id}`;
      link.textContent = facts.run_id.slice(0, 8);
      said.append(", run ", link);
    }
  } catch { said.textContent = "The server cannot be reached."; }
  refresh();
}

document.addEventListener("click", event => {
  const button = event.target.closest("button[data-post]");
  if (button && (!button.dataset.sure || confirm(button.dataset.sure))) send(button.dataset.post, {});
});
document.addEventListener("submit", event => {
  const form = event.target.closest("form[data-post]");
  if (!form) return;
  event.preventDefault();
  const body = {}, config = {};
  for (const input of form.querySelectorAll("input[name]")) {
    if (input.value === "") continue;
    const value = input.type === "number" ? Number(input.value) : input.value;
    if (input.name.startsWith("config.")) config[input.name.slice(7)] = value; else body[input.name] = value;
  }
  if (Object.keys(config).length) body.config = config;
  document.activeElement.blur();
  send(form.dataset.post, body);
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
follow(main().dataset.live);
