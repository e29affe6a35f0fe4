// Labeling: one item after another, by keys; the next ones are fetched ahead, and answers wait here while the server is
// away. Each answer has an id of its own, so that it counts once however often it is sent.
const page = document.getElementById("labeling");
const { project, person, token, widgets } = page.dataset;
const words = JSON.parse(page.dataset.words);
const { readValue, bindKeys } = await import(widgets);  // its address changes with its content
const place = document.getElementById("item");
const bar = document.getElementById("bar");
const why = document.getElementById("why");
const notices = document.getElementById("notices");
const state = document.getElementById("link-state");
const box = `luthier-answer:${project}:${person}:`;
const AHEAD = 3;

let current = null;  // the item that is shown
let waiting = [];  // items that were fetched ahead
let shownAt = 0;
let release = () => {};
let isFetching = false;
let sending = null;
let isAway = false;  // whether the server did not answer
let retry = 0;
let pause = 1000;
let last = null;  // the item that was answered last, for an undo without a connection

class Refused extends Error {}

async function post(path, fields) {
  const form = new FormData();
  form.set("token", token);
  for (const [name, value] of Object.entries(fields)) form.set(name, value);
  const answer = await fetch(`/label/${encodeURIComponent(project)}/${path}`, { method: "POST", body: form });
  if (answer.status === 422) throw new Refused((await answer.json()).error);
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.json();
}

// ---- answers that wait here

const keys = () => Object.keys(localStorage).filter((key) => key.startsWith(box)).sort();
const stored = () => keys().map((key) => ({ key, ...JSON.parse(localStorage.getItem(key)) }));
const unsent = () => stored().filter((one) => !one.refused);

function makeId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (one) => one.toString(16).padStart(2, "0")).join("");
}

function keep(submission) {
  const moment = String(Date.now()).padStart(15, "0");
  const order = String(Math.floor(performance.now() * 1000) % 1e9).padStart(9, "0");
  localStorage.setItem(`${box}${moment}-${order}-${submission.id}`, JSON.stringify({ submission }));
}

function send() {  // whoever calls it while answers are under way waits for these
  sending ??= sendAll().finally(() => { sending = null; });
  return sending;
}

async function sendAll() {
  clearTimeout(retry);
  try {
    for (let next = unsent()[0]; next; next = unsent()[0]) await sendOne(next);
    pause = 1000;
    tell(words.saved);
  } catch (error) {
    away(error);
  }
}

async function sendOne({ key, submission }) {
  tell(words.sending);
  try {
    const outcome = await post("submit", { submission: JSON.stringify(submission) });
    localStorage.removeItem(key);
    if (outcome.late) notice(words.late);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    localStorage.setItem(key, JSON.stringify({ submission, refused: error.message }));
    notice(words.refused + error.message);
  }
}

function away(error) {
  isAway = true;
  tell((["401", "403"].includes(error.message) ? words.ended : words.waiting) + unsent().length);
  clearTimeout(retry);
  retry = setTimeout(() => send().then(fill), pause);
  pause = Math.min(pause * 2, 15000);
}

function tell(text) {
  if (text === words.saved) isAway = false;
  state.textContent = text;
  state.classList.toggle("failed", isAway);
  state.classList.toggle("done", text === words.saved);
}

function notice(text) {
  const told = document.createElement("p");
  told.className = "notice";
  told.textContent = text;
  notices.replaceChildren(told);
}

// ---- items

const held = () => [current, ...waiting].filter(Boolean).map((one) => one.id).concat(unsent().map((one) => one.submission.item));

async function fill() {
  if (isFetching) return;
  isFetching = true;
  try {
    while (waiting.length + (current ? 0 : -1) < AHEAD) {
      const { item, state: over, waits } = await post("next", { held: JSON.stringify(held()) });
      document.getElementById("waits").textContent = waits;
      if (!item) {
        if (!current) finish(over);
        break;
      }
      if (held().includes(item.id)) continue;
      if (current) waiting.push(item);
      else show(item);
      if (String(item.version) !== page.dataset.version) guidelines(item.version);
    }
  } catch (error) {
    away(error);
  }
  isFetching = false;
}

function show(item, start = null) {
  release();
  current = item;
  shownAt = performance.now();
  for (const name of ["done", "unqualified", "closed"]) document.getElementById(name).hidden = true;
  bar.hidden = false;
  why.hidden = true;
  place.innerHTML = item.html;  // written by the studio's templates, which escape whatever they show
  place.hidden = false;
  activate();
  if (document.activeElement === document.body || start) place.focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

function finish(over) {
  release();
  current = null;
  place.hidden = bar.hidden = true;
  document.getElementById(over).hidden = false;
  if (over === "done") setTimeout(() => { if (!current) fill(); }, 15000);
}

async function guidelines(version) {
  page.dataset.version = String(version);
  const answer = await fetch(`/label/${encodeURIComponent(project)}/guidelines`);
  if (!answer.ok) return;
  document.getElementById("guidelines").innerHTML = await answer.text();  // the same
  notice(words.changed);
}

// ---- questions of the item that is shown

const questions = () => [...place.querySelectorAll("fieldset.question")];
const isOptional = (root) => Boolean(place.querySelector(`[data-optional="${CSS.escape(root.dataset.question)}"]`));

function activate() {
  release();
  const all = questions();
  const focused = all.find((root) => root.contains(document.activeElement));
  const active = focused ?? all.find((root) => readValue(root) === null) ?? all[0];
  for (const root of all) root.classList.toggle("active", root === active && all.length > 1);
  release = active ? bindKeys(active, () => { if (all.length === 1) answer("answer"); }) : () => {};
}

place.addEventListener("change", (event) => {
  const root = event.target.closest("fieldset.question");
  if (!root) return;
  const all = questions();
  const isPress = event.isTrusted && event.target.matches("input[type=radio]");
  if (all.length === 1 && isPress && ["choice", "pair", "rating"].includes(root.dataset.kind) && clicked) answer("answer");
  else if (readValue(root) !== null && event.target.matches("input[type=radio]")) { document.activeElement.blur(); activate(); }
});
let clicked = false;  // whether a radio button changes by a click, and not by the arrow keys that go over them
document.addEventListener("pointerdown", () => { clicked = true; });
document.addEventListener("keydown", () => { clicked = false; }, true);
place.addEventListener("focusin", activate);

function answer(kind, comment = "") {
  if (!current) return;
  const values = {};
  if (kind === "answer") {
    for (const root of questions()) {
      const value = readValue(root);
      if (value !== null) values[root.dataset.question] = value;
      else if (!isOptional(root)) {
        notice(words.missing + root.querySelector("legend").textContent.trim());
        root.querySelector("input, textarea, select, button, [tabindex]")?.focus();
        return;
      }
    }
  }
  const seconds = (performance.now() - shownAt) / 1000;
  keep({ id: makeId(), item: current.id, values, kind, comment, seconds, guideline_version: current.version });
  last = current;
  count(kind === "answer" ? 1 : 0);
  notices.replaceChildren();
  current = null;
  if (waiting.length) show(waiting.shift());
  else place.innerHTML = '<p class="loading" role="status">…</p>';
  if (!isAway) send().then(fill);
  else tell(words.waiting + unsent().length);
}

function count(more) {
  const mine = document.getElementById("mine");
  mine.textContent = String(Number(mine.dataset.count = Number(mine.dataset.count) + more));
}

async function undo() {
  const mine = unsent();
  const newest = mine.at(-1);
  if (newest && last && newest.submission.item === last.id && isAway) {
    localStorage.removeItem(newest.key);  // it was never sent, or will be replaced by what is answered now
    if (current) waiting.unshift(current);
    count(newest.submission.kind === "answer" ? -1 : 0);
    show(last, true);
    return;
  }
  try {
    await send();  // what is undone is the last that the server has
    if (unsent().length) return;
    const { item, answered } = await post("undo", {});
    count(answered - Number(document.getElementById("mine").dataset.count));
    if (!item) {
      notice(words.nothing);
      return;
    }
    if (current && current.id !== item.id) waiting.unshift(current);
    waiting = waiting.filter((one) => one.id !== item.id);
    show(item, true);
  } catch (error) {
    away(error);
  }
}

// ---- buttons and keys

const deeds = {
  send: () => answer("answer"),
  skip: () => answer("skip"),
  flag: () => { why.hidden = false; why.elements.text.value = ""; why.elements.text.focus(); },
  cancel: () => { why.hidden = true; place.focus(); },
  undo,
  again: fill,
  leave: () => { location.href = "/label"; },
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("#labeling [data-do]");
  if (!button) return;
  event.preventDefault();
  deeds[button.dataset.do]();
});

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("textarea, select, input:not([type=radio], [type=checkbox])");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return deeds.send();
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || isTyping) {
    if (event.key === "Escape" && isTyping) event.target.blur();
    return;
  }
  if (event.key === "Enter") {
    if (event.target.closest("button, a, summary")) return;
    event.preventDefault();
    deeds.send();
    return;
  }
  const deed = { s: "skip", f: "flag", u: "undo", q: "leave" }[event.key.toLowerCase()];
  if (!deed) return;
  event.preventDefault();
  deeds[deed]();
});

why.addEventListener("submit", (event) => {
  event.preventDefault();
  answer("flag", why.elements.text.value.trim());
});

place.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target.closest("[data-comment]");
  if (!form) return;
  const body = new FormData(form);
  body.set("token", token);
  const told = await fetch(form.dataset.comment, { method: "POST", body });
  if (told.ok) form.closest(".remarks").outerHTML = await told.text();  // the same
});

addEventListener("online", () => send().then(fill));
addEventListener("pagehide", () => {
  if (!waiting.length) return;
  const form = new FormData();
  form.set("token", token);
  form.set("held", JSON.stringify(waiting.map((one) => one.id)));
  navigator.sendBeacon(`/label/${encodeURIComponent(project)}/release`, form);
});

for (const one of stored()) if (one.refused) notice(words.refused + one.refused);
await send();
await fill();
