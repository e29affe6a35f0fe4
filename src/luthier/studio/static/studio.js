// The studio's own script: the light and the dark, commands to copy, live runs, dropped files, and lines of a recipe.
const root = document.documentElement;

function scheme() {
  const button = document.getElementById("scheme");
  if (!button) return;
  const isDark = () => root.dataset.scheme ? root.dataset.scheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { button.textContent = isDark() ? button.dataset.light : button.dataset.dark; };
  button.hidden = false;
  label();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  button.addEventListener("click", () => {
    root.dataset.scheme = isDark() ? "light" : "dark";
    try { localStorage.setItem("luthier-scheme", root.dataset.scheme); } catch (refused) { /* storage may be switched off */ }
    label();
  });
}

async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    code.dataset.copied = root.dataset.copied;
  } catch (refused) {
    getSelection().selectAllChildren(code);
  }
  setTimeout(() => { delete code.dataset.copied; }, 1500);
}

function nameOf(details) {
  const inside = [details.closest("li")?.querySelector("h3"), details.closest("figure")?.querySelector("figcaption span")];
  return [details.id, ...inside.map((one) => one?.textContent)].join("/");
}

function watch() {
  const place = document.querySelector("[data-events]");
  if (!place) return;
  const source = new EventSource(place.dataset.events);
  source.addEventListener("progress", (event) => {
    const log = document.getElementById("log");
    const opened = new Map([...place.querySelectorAll("details")].map((one) => [nameOf(one), one.open]));
    const list = log && log.querySelector("ol");
    const isAtEnd = !list || list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
    const before = list ? list.scrollTop : 0;
    place.innerHTML = event.data;  // written by the studio's templates, which escape whatever they show
    for (const one of place.querySelectorAll("details")) one.open = opened.get(nameOf(one)) ?? one.open;
    const now = document.getElementById("log");
    if (!now) return;
    const lines = now.querySelector("ol");
    lines.scrollTop = isAtEnd ? lines.scrollHeight : before;
  });
  source.addEventListener("over", () => source.close());
}

function drop() {
  const place = document.getElementById("drop");
  if (!place) return;
  const input = place.querySelector("input[type=file]");
  for (const kind of ["dragenter", "dragover"]) place.addEventListener(kind, (event) => { event.preventDefault(); place.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) place.addEventListener(kind, () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) { input.files = event.dataTransfer.files; input.dispatchEvent(new Event("change")); }
  });
  input.addEventListener("change", () => {
    const name = document.querySelector("input[name=name]");
    if (input.files.length && name && !name.value) {
      name.value = input.files[0].name.replace(/\.[^.]*$/, "").normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replace(/[^a-z0-9_-]+/g, "-").replace(/^[-_]+|-+$/g, "").slice(0, 64);
    }
  });
}

function showLine(number) {
  const text = document.getElementById("text");
  const lines = text.value.split("\n");
  const start = lines.slice(0, number - 1).join("\n").length + (number > 1 ? 1 : 0);
  text.focus();
  text.setSelectionRange(start, start + (lines[number - 1] || "").length);
  text.scrollIntoView({ block: "center" });
}

// Whatever can be scrolled can be reached by keys.
function reachScrolled() {
  for (const place of document.querySelectorAll(".scroll, pre, .terminal code, .log ol, .alternatives")) {
    const scrolls = place.scrollWidth > place.clientWidth || place.scrollHeight > place.clientHeight + 1;
    if (scrolls) place.tabIndex = 0;
    else if (!place.hasAttribute("data-copy")) place.removeAttribute("tabindex");
  }
}

let waits = false;
function look() {
  if (waits) return;
  waits = true;
  requestAnimationFrame(() => { waits = false; reachScrolled(); });
}

// What was typed outlives a session that ended and a studio that is away: a form leaves the page once both are there,
// and a piece of a page stays as it is when its request is not let in.
let isChecked = false, token = "";
async function renew() {
  const answer = await fetch("/session", { headers: { accept: "application/json" } });
  if (answer.ok) {
    ({ token } = await answer.json());
    for (const field of document.querySelectorAll("input[name=token]")) field.value = token;
  }
  return answer;
}

async function check(form, submitter) {
  let problem = "", login = "";
  try {
    const answer = await renew();
    if (answer.status === 401) [problem, login] = [root.dataset.ended, root.dataset.login];
    else if (!answer.ok) problem = root.dataset.away;
  } catch (away) {
    problem = root.dataset.away;
  }
  form.querySelector(".unsent")?.remove();
  if (problem) { tell(form, problem, login); return; }
  isChecked = true;
  form.requestSubmit(submitter);
  isChecked = false;
}

function tell(form, problem, login) {
  const told = document.createElement("p");
  told.className = "notice unsent";
  told.setAttribute("role", "alert");
  told.textContent = `${problem} `;
  if (login) {
    const link = document.createElement("a");
    Object.assign(link, { href: "/login", target: "_blank", textContent: login });
    told.append(link);
  }
  form.append(told);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (isChecked || event.defaultPrevented || !root.dataset.ended || form.getAttribute("method") !== "post") return;
  event.preventDefault();
  check(form, event.submitter);
});
document.addEventListener("htmx:config:request", (event) => {
  const { body } = event.detail.ctx.request;
  if (token && body.has("token")) body.set("token", token);
});
document.addEventListener("htmx:response:error", (event) => {
  const { sourceElement, response } = event.detail.ctx;
  if (response.status === 403) renew();
  if (response.status !== 401 || !root.dataset.ended) return;
  const place = sourceElement.form ?? sourceElement.closest("form") ?? document.getElementById("main");
  place.querySelector(".unsent")?.remove();
  tell(place, root.dataset.ended, root.dataset.login);
});
// Pictures and sounds of items: a picture is enlarged and made small again, and what cannot be shown says so.
function enlarge(figure) {
  const view = figure.querySelector(".view"), image = view.querySelector("img");
  const isLarge = view.classList.toggle("large");
  figure.querySelector("[data-zoom]").setAttribute("aria-pressed", String(isLarge));
  if (isLarge && image.dataset.whole) {
    image.src = image.dataset.whole;
    delete image.dataset.whole;
  }
  return view;
}

function pressMedia(key) {
  const near = (kind) => document.activeElement?.closest("figure.shown")?.querySelector(kind) ?? document.querySelector(`figure.shown ${kind}`);
  if (key === "+") {
    const image = near("img");
    if (image) enlarge(image.closest("figure")).focus({ preventScroll: true });
    return Boolean(image);
  }
  const sound = key === "." && near("audio");
  if (sound) sound.paused ? sound.play().catch(() => {}) : sound.pause();
  return Boolean(sound);
}

document.addEventListener("error", (event) => {
  const figure = event.target.closest?.("figure.shown");
  if (!figure) return;
  const told = document.createElement("p");
  told.className = "notice small unshown";
  told.textContent = figure.dataset.unshown;
  figure.replaceWith(told);
}, true);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("[data-copy]")) copy(event.target);
  const isTyping = event.target.matches("textarea, select, input:not([type=radio], [type=checkbox])");
  if (isTyping || event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
  if (pressMedia(event.key)) event.preventDefault();
});
document.addEventListener("click", (event) => {
  const code = event.target.closest("[data-copy]");
  if (code) copy(code);
  const zoom = event.target.closest("[data-zoom], figure.shown .view img");
  if (zoom) enlarge(zoom.closest("figure"));
  const button = event.target.closest("[data-line]");
  if (button) showLine(Number(button.dataset.line));
});
document.querySelector(".tabs [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
addEventListener("resize", look);
look();
scheme();
watch();
drop();
