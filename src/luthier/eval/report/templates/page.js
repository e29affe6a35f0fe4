"use strict";
(function () {
  const root = document.documentElement;

  function element(tag, words, kind) {
    const made = document.createElement(tag);
    if (words !== undefined) made.textContent = words;
    if (kind) made.className = kind;
    return made;
  }

  function scheme() {
    const button = document.getElementById("scheme");
    const isDark = () => root.dataset.scheme
      ? root.dataset.scheme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    const label = () => { button.textContent = isDark() ? button.dataset.light || "Light" : button.dataset.dark || "Dark"; };
    try { const kept = localStorage.getItem("luthier-scheme"); if (kept === "dark" || kept === "light") root.dataset.scheme = kept; } catch (refused) { /* a page opened from a file may have no storage */ }
    button.hidden = false;
    label();
    button.addEventListener("click", () => {
      root.dataset.scheme = isDark() ? "light" : "dark";
      try { localStorage.setItem("luthier-scheme", root.dataset.scheme); } catch (refused) { /* as above */ }
      label();
    });
  }

  function pager(place, size, total, show) {
    let page = 0;
    const pages = Math.max(1, Math.ceil(total / size));
    const back = element("button", "Back"), next = element("button", "Next"), where = element("span");
    back.type = next.type = "button";
    where.setAttribute("role", "status");
    const turn = (to) => {
      page = to;
      back.disabled = page === 0;
      next.disabled = page === pages - 1;
      where.textContent = (total ? page * size + 1 : 0) + "–" + Math.min(total, (page + 1) * size) + " of " + total.toLocaleString("en");
      show(page * size, (page + 1) * size);
    };
    back.addEventListener("click", () => turn(page - 1));
    next.addEventListener("click", () => turn(page + 1));
    place.replaceChildren(...(pages > 1 ? [back, next, where] : []));
    turn(0);
  }

  function lists() {
    for (const list of document.querySelectorAll("[data-page]")) {
      const size = Number(list.dataset.page), items = [...list.children];
      if (items.length <= size) continue;
      const place = element("div", undefined, "pager");
      list.after(place);
      pager(place, size, items.length, (from, to) => items.forEach((item, at) => { item.hidden = at < from || at >= to; }));
    }
  }

  function key(row, column) {
    const words = row.cells[column].textContent.trim();
    const figure = parseFloat(words.replace(/,/g, "").replace("−", "-"));
    return row.cells[column].classList.contains("num") ? (isNaN(figure) ? -Infinity : figure) : words;
  }

  function sortable() {
    for (const table of document.querySelectorAll("table.sortable")) {
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        const button = element("button", head.textContent);
        button.type = "button";
        head.replaceChildren(button);
        button.addEventListener("click", () => {
          const down = head.getAttribute("aria-sort") === "ascending";
          for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
          head.setAttribute("aria-sort", down ? "descending" : "ascending");
          const rows = [...table.tBodies[0].rows];
          rows.sort((a, b) => {
            const x = key(a, column), y = key(b, column);
            const order = typeof x === "number" ? x - y : x.localeCompare(y);
            return down ? -order : order;
          });
          table.tBodies[0].append(...rows);
        });
      });
    }
  }

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function rowTable(table, facts, rows) {
    const head = element("tr");
    for (const words of ["Text", "Reference", ...facts.models]) { const cell = element("th", words); cell.scope = "col"; head.append(cell); }
    const thead = element("thead"), body = element("tbody");
    thead.append(head);
    for (const [id, text, reference, answers, right] of rows) {
      const line = element("tr");
      line.append(element("td", text), element("td", reference));
      line.cells[0].title = id;
      line.cells[1].dataset.name = "Reference";
      answers.forEach((answer, at) => {
        const cell = element("td");
        cell.dataset.name = facts.models[at];
        if (right[at] !== null) {
          const mark = element("span", right[at] ? "✓ " : "✗ ", right[at] ? "right" : "wrong");
          mark.setAttribute("aria-label", right[at] ? "right" : "wrong");
          mark.setAttribute("role", "img");
          cell.append(mark);
        }
        cell.append(answer);
        line.append(cell);
      });
      body.append(line);
    }
    table.replaceChildren(thead, body);
  }

  function wanted(facts, kind) {
    const now = (row) => row[4][facts.tuned], before = (row) => row[4][facts.base];
    return {
      all: () => true,
      wrong: (row) => now(row) === 0,
      fixed: (row) => now(row) === 1 && before(row) === 0,
      broken: (row) => now(row) === 0 && before(row) === 1,
      both: (row) => now(row) === 0 && before(row) === 0,
    }[kind];
  }

  async function browser(part) {
    const facts = await unpacked(part.dataset.rows);
    const tools = part.querySelector(".tools"), [find, show] = [tools.querySelector("input"), tools.querySelector("select")];
    const refresh = () => {
      const words = find.value.toLowerCase(), fits = wanted(facts, show.value);
      const rows = facts.rows.filter((row) => fits(row) && (!words || (row.slice(0, 3).join("\n") + row[3].join("\n")).toLowerCase().includes(words)));
      tools.querySelector(".found").textContent = rows.length.toLocaleString("en") + (rows.length === 1 ? " row" : " rows");
      pager(part.querySelector(".pager"), 20, rows.length, (from, to) => rowTable(part.querySelector("table"), facts, rows.slice(from, to)));
    };
    find.addEventListener("input", refresh);
    show.addEventListener("change", refresh);
    tools.hidden = false;
    refresh();
  }

  function printing() {
    addEventListener("beforeprint", () => { for (const each of document.querySelectorAll("details:not([open])")) { each.open = true; each.dataset.shut = ""; } });
    addEventListener("afterprint", () => { for (const each of document.querySelectorAll("details[data-shut]")) { each.open = false; delete each.dataset.shut; } });
  }

  scheme();
  lists();
  sortable();
  printing();
  if (typeof DecompressionStream === "function") document.querySelectorAll(".browser").forEach(browser);
})();
