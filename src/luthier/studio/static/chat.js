// A conversation with a model beside its base: answers stream in, and each token shows what else could have stood there.
const LEVELS = [0.2, 0.5, 0.8, 0.95];
let conversations = {};
let running = null;

function add(template, into) {
  const made = document.getElementById(template).content.firstElementChild.cloneNode(true);
  into.append(made);
  return made;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const [name, data] = part.split("\n");
      yield [name.slice(7), JSON.parse(data.slice(6))];
    }
  }
}

function show(section, token) {
  const place = section.querySelector("[data-alternatives]");
  place.replaceChildren(document.getElementById("alternatives").content.cloneNode(true));
  place.hidden = false;
  const [text, share, others] = token;
  const rows = others.some(([other]) => other === text) ? others : [[text, share], ...others];
  for (const [other, likely] of rows) {
    const row = place.querySelector("tbody").insertRow();
    row.append(document.createElement("th"));
    row.firstChild.scope = "row";
    row.firstChild.textContent = JSON.stringify(other).slice(1, -1);
    if (other === text) row.className = "chosen";
    const cell = row.insertCell();
    cell.className = "number";
    cell.textContent = `${(100 * likely).toFixed(likely < 0.001 ? 3 : 1)} %`;
  }
}

function addToken(section, token) {
  const line = section.querySelector("[data-tokens]");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = token[0];
  button.className = `token sure${LEVELS.filter((level) => token[1] >= level).length}`;
  button.title = `${(100 * token[1]).toFixed(1)} %`;
  button.tabIndex = line.children.length ? -1 : 0;
  button.addEventListener("focus", () => {
    for (const other of line.children) other.tabIndex = other === button ? 0 : -1;
    show(section, token);
  });
  button.addEventListener("click", () => button.focus());
  line.append(button);
}

function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const all = [...event.currentTarget.children];
  const next = { Home: all[0], End: all.at(-1) }[event.key] || (step && all[all.indexOf(document.activeElement) + step]);
  if (!next) return;
  event.preventDefault();
  next.focus();
}

function display() {
  const wanted = document.getElementById("show-tokens").checked;
  for (const section of document.querySelectorAll("#answers section")) {
    const line = section.querySelector("[data-tokens]");
    const can = wanted && line.children.length > 0;
    line.hidden = !can;
    section.querySelector("[data-text]").hidden = can;
    if (!can) section.querySelector("[data-alternatives]").hidden = true;
  }
}

async function answer(place, form, model, section, signal) {
  const status = section.querySelector("[data-status]");
  const text = section.querySelector("[data-text]");
  const body = new URLSearchParams({
    token: place.dataset.token, model, messages: JSON.stringify(conversations[model]),
    temperature: form.elements.temperature.value, tokens: form.elements.tokens.value,
  });
  const fail = (message) => { section.classList.add("bad"); status.textContent = message; };
  let whole = false;
  try {
    const response = await fetch(place.dataset.chat, { method: "POST", body, signal, headers: { "hx-request": "true" } });
    if (!response.ok) {
      const said = new DOMParser().parseFromString(await response.text(), "text/html").body.textContent.trim();
      fail(said);
      return;
    }
    for await (const [name, told] of events(response)) {
      if (name === "piece") {
        text.textContent += told.text;
        for (const token of told.tokens) addToken(section, token);
        display();
      } else if (name === "end") {
        whole = true;
        status.textContent = `${told.seconds.toFixed(1)} s`;
      } else {
        whole = true;
        fail([told.message, told.hint].filter(Boolean).join(": "));
      }
    }
    if (!whole) fail(form.dataset.lost);
  } catch (error) {
    if (error.name === "AbortError") status.textContent = form.dataset.stopped;
    else fail(form.dataset.lost);
  } finally {
    conversations[model].push({ role: "assistant", content: text.textContent });
    if (!text.textContent && !section.classList.contains("bad")) text.textContent = form.dataset.nothing;
  }
}

async function ask(place, form) {
  const said = form.elements.text.value.trim();
  if (!said || running) return;
  running = new AbortController();
  const halt = document.getElementById("halt");
  const send = document.getElementById("send");
  const exchange = add("exchange", document.getElementById("answers"));
  exchange.querySelector("[data-said]").textContent = said;
  form.elements.text.value = "";
  halt.hidden = false;
  send.disabled = true;
  const models = JSON.parse(place.dataset.models);
  const work = models.map((model, at) => {
    const section = add("answer", exchange.querySelector(".beside-answers"));
    if (at === 0) section.classList.add("assistant");
    section.querySelector("[data-name]").textContent = model;
    section.querySelector("[data-tokens]").addEventListener("keydown", walk);
    (conversations[model] ||= []).push({ role: "user", content: said });
    return answer(place, form, model, section, running.signal);
  });
  await Promise.all(work);
  running = null;
  halt.hidden = true;
  send.disabled = false;
  form.elements.text.focus();
}

document.addEventListener("submit", (event) => {
  if (event.target.id !== "ask") return;
  event.preventDefault();
  ask(event.target.closest("[data-chat]"), event.target);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.name === "text") event.target.form.requestSubmit();
});
document.addEventListener("click", (event) => {
  if (event.target.id === "halt" && running) running.abort();
  if (event.target.id === "anew") {
    if (running) running.abort();
    conversations = {};
    document.getElementById("answers").replaceChildren();
  }
});
document.addEventListener("change", (event) => { if (event.target.id === "show-tokens") display(); });
