/* Questions on a page: what was answered as JSON, and back; keys; places in texts; orders.

   readValue(root)          the answer as the question's `check` wants it; null while there is none, and while a turn
                            stands as it was
   showValue(root, value)   show an answer; null clears
   bindKeys(root, onAnswer) let keys answer; `onAnswer(value)` is called where one key is the whole answer. Returns a
                            function that lets go of the keys. Enter is left to the page.

   `root` is the fieldset of templates/widgets/question.html.jinja. Whatever changes an answer sends `change` from within
   it. Places are counted in characters (code points), as Python does; inside this file they are UTF-16 units. */

const AT_ONCE = new Set(["choice", "pair", "rating"])
const surfaces = new WeakMap()
const prepared = new WeakSet()

export function readValue(root) {
  prepare(root)
  return kinds[root.dataset.kind].read(root)
}

export function showValue(root, value) {
  prepare(root)
  kinds[root.dataset.kind].show(root, value ?? null)
}

export function bindKeys(root, onAnswer) {
  prepare(root)
  const press = (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || isTyping(event.target)) return
    const key = event.key.toLowerCase()
    const kind = root.dataset.kind
    const found = key.length === 1 && root.querySelector(`[data-key="${CSS.escape(key)}"]`)
    if (found) pressControl(found)
    else if (!kinds[kind].press?.(root, key)) return
    event.preventDefault()
    if (found && AT_ONCE.has(kind)) onAnswer(readValue(root))
  }
  document.addEventListener("keydown", press)
  return () => document.removeEventListener("keydown", press)
}

function isTyping(target) {
  return target instanceof Element && target.matches("textarea, select, input:not([type=radio], [type=checkbox])")
}

function pressControl(control) {
  if (control.matches("button")) return control.click()
  control.checked = control.type === "radio" || !control.checked
  control.focus()
  changed(control)
}

function changed(element) {
  element.dispatchEvent(new Event("change", { bubbles: true }))
}

function prepare(root) {
  if (prepared.has(root)) return
  prepared.add(root)
  kinds[root.dataset.kind].prepare?.(root)
  if (root.dataset.value !== undefined) kinds[root.dataset.kind].show(root, JSON.parse(root.dataset.value))
}

/* Radio buttons, check boxes and texts. */

const inputs = (root) => [...root.querySelectorAll("input[type=radio], input[type=checkbox]")]
const chosen = (root) => inputs(root).filter((input) => input.checked).map((input) => input.value)
const choose = (root, values) => inputs(root).forEach((input) => (input.checked = values.includes(input.value)))

const oneOf = {
  read: (root) => chosen(root)[0] ?? null,
  show: (root, value) => choose(root, value === null ? [] : [String(value)]),
}

const choices = {
  read: (root) => (chosen(root).length < Number(root.querySelector("[data-min]").dataset.min) ? null : chosen(root)),
  show: (root, value) => choose(root, value ?? []),
}

const rating = { ...oneOf, read: (root) => (chosen(root).length ? Number(chosen(root)[0]) : null) }

const text = {
  read: (root) => root.querySelector("textarea").value.trim() || null,
  show: (root, value) => (root.querySelector("textarea").value = value ?? ""),
}

const tree = {
  ...oneOf,
  prepare(root) {
    const filter = root.querySelector("[data-filter]")
    filter.addEventListener("input", () => showMatches(root, filter.value.trim().toLowerCase()))
    filter.addEventListener("keydown", (event) => {
      const shown = inputs(root).filter((input) => !input.closest("[hidden]"))
      if (event.key === "ArrowDown") shown[0]?.focus()
      else if (event.key === "Enter" && shown.length === 1) pressControl(shown[0])
      else return
      event.preventDefault()
    })
  },
  press(root, key) {
    if (key !== "/") return false
    root.querySelector("[data-filter]").focus()
    return true
  },
}

function showMatches(root, wanted) {
  const items = [...root.querySelectorAll(".tree li")]
  for (const item of items) item.hidden = true
  for (const input of inputs(root)) {
    if (!input.value.toLowerCase().includes(wanted)) continue
    for (let item = input.closest("li"); item; item = item.parentElement.closest("li")) item.hidden = false
  }
}

const rubric = {
  read(root) {
    const rows = criteria(root).map((row) => [row.dataset.criterion, chosen(row)[0]])
    return rows.every(([, points]) => points !== undefined)
      ? Object.fromEntries(rows.map(([name, points]) => [name, Number(points)]))
      : null
  },
  show: (root, value) =>
    criteria(root).forEach((row) => choose(row, value === null ? [] : [String(value[row.dataset.criterion])])),
  press(root, key) {
    const row = criteria(root).find((one) => !chosen(one).length)
    const input = row && inputs(row).find((one) => one.value === key)
    if (input) pressControl(input)
    return Boolean(input)
  },
}

const criteria = (root) => [...root.querySelectorAll("[data-criterion]")]

const correction = {
  prepare(root) {
    const turn = root.querySelector("select")
    const showTurn = () => (root.querySelector("textarea").value = textOfTurn(turn))
    turn.addEventListener("change", showTurn)
    showTurn()
  },
  read(root) {
    const turn = root.querySelector("select")
    const value = root.querySelector("textarea").value.trim()
    return turn.value && value && value !== textOfTurn(turn).trim() ? { turn: Number(turn.value), text: value } : null
  },
  show(root, value) {
    const turn = root.querySelector("select")
    if (value !== null) turn.value = String(value.turn)
    root.querySelector("textarea").value = value === null ? textOfTurn(turn) : value.text
  },
}

function textOfTurn(turn) {
  const said = JSON.parse(turn.selectedOptions[0]?.dataset.text ?? '""')
  return typeof said === "string" ? said : JSON.stringify(said)
}

const json = {
  read(root) {
    const fields = [...root.querySelectorAll("[data-field]")]
    const whole = root.querySelector("textarea")
    if (!fields.length) return parseWhole(whole)
    const told = fields.map((field) => [field.dataset.field, readField(field.querySelector("[data-type]"))])
    const known = told.filter(([, value]) => value !== undefined)
    return known.length ? Object.fromEntries(known) : null
  },
  show(root, value) {
    const whole = root.querySelector("textarea")
    if (whole) whole.value = value === null ? "" : JSON.stringify(value, null, 1)
    for (const field of root.querySelectorAll("[data-field]")) {
      const control = field.querySelector("[data-type]")
      const told = value?.[field.dataset.field]
      if (told === undefined) control.value = ""
      else if (control.dataset.type !== "json") control.value = String(told)
      else control.value = [...control.options].find((one) => one.value && same(JSON.parse(one.value), told))?.value ?? ""
    }
  },
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other)

function readField(control) {
  if (control.value === "") return undefined
  if (control.dataset.type === "string") return control.value
  return control.dataset.type === "number" ? Number(control.value) : JSON.parse(control.value)
}

function parseWhole(whole) {
  try {
    whole.removeAttribute("aria-invalid")
    return whole.value.trim() ? JSON.parse(whole.value) : null
  } catch {
    whole.setAttribute("aria-invalid", "true")
    return null
  }
}

/* An order of answers. */

const ranking = {
  prepare(root) {
    const list = root.querySelector(".ranking")
    list.addEventListener("click", (event) => move(event.target.closest("[data-move]")))
    list.addEventListener("keydown", (event) => {
      const way = { ArrowUp: "-1", ArrowDown: "1" }[event.key]
      const item = event.target.closest("li")
      if (!way || !item) return
      event.preventDefault()
      move(item.querySelector(`[data-move="${way}"]`))
    })
  },
  read: (root) => letters(root).map((item) => item.dataset.letter),
  show(root, value) {
    root.dataset.typed = ""
    const order = value ?? letters(root).map((item) => item.dataset.letter).sort()
    const place = new Map(order.map((letter, index) => [letter, index]))
    const items = letters(root).sort((a, b) => place.get(a.dataset.letter) - place.get(b.dataset.letter))
    root.querySelector(".ranking").append(...items)
  },
  press(root, key) {
    const found = letters(root).find((item) => item.dataset.letter.toLowerCase() === key)
    if (!found) return false
    const typed = root.dataset.typed ?? ""
    const before = typed.length < letters(root).length ? typed.replace(key, "") : ""
    const rest = letters(root).filter((item) => item !== found)
    const ahead = rest.filter((item) => before.includes(item.dataset.letter.toLowerCase())).length
    root.querySelector(".ranking").insertBefore(found, rest[ahead] ?? null)
    root.dataset.typed = before + key
    changed(found)
    return true
  },
}

const letters = (root) => [...root.querySelectorAll("[data-letter]")]

function move(button) {
  const item = button?.closest("li")
  const other = Number(button?.dataset.move) < 0 ? item?.previousElementSibling : item?.nextElementSibling
  if (!other) return
  if (Number(button.dataset.move) < 0) other.before(item)
  else other.after(item)
  button.focus()
  changed(item)
}

/* Places in a text. */

class Surface {
  constructor(root, name) {
    this.root = root
    this.name = name // of the key that holds a place's label: label or severity
    this.box = root.querySelector(".surface")
    this.text = JSON.parse(this.box.dataset.text)
    this.words = [...new Intl.Segmenter(undefined, { granularity: "word" }).segment(this.text)]
      .filter((one) => one.isWordLike || /[^\s]/u.test(one.segment))
      .map((one) => ({ start: one.index, end: one.index + one.segment.length }))
    this.labels = [...root.querySelectorAll("[data-label]")].map((button) => button.dataset.label)
    this.marks = []
    this.relations = []
    this.anchor = 0
    this.head = 0
    this.selected = null
    this.box.addEventListener("keydown", (event) => this.press(event))
    this.box.addEventListener("focus", () => {
      if (this.box.matches(":focus-visible") && !this.selected) this.goTo(this.head, false)
    })
    const listen = () => (this.box.isConnected ? this.takeSelection() : document.removeEventListener("selectionchange", listen))
    document.addEventListener("selectionchange", listen)
    root.addEventListener("click", (event) => this.click(event.target))
    this.draw()
  }

  press(event) {
    if (event.ctrlKey || event.metaKey) return
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -8, ArrowDown: 8, Home: -Infinity, End: Infinity }[event.key]
    if (step !== undefined && event.altKey && event.shiftKey) this.stretch(Math.sign(step))
    else if (step !== undefined && !event.altKey) this.goTo(this.head + step, event.shiftKey)
    else if (event.key === "Delete" || event.key === "Backspace") this.removeSelected()
    else return
    event.preventDefault()
    event.stopPropagation()
  }

  goTo(word, extend) {
    if (!this.words.length) return
    this.head = Math.min(Math.max(word, 0), this.words.length - 1)
    if (!extend) this.anchor = this.head
    const [first, last] = [Math.min(this.anchor, this.head), Math.max(this.anchor, this.head)]
    this.select(this.words[first].start, this.words[last].end)
  }

  stretch(step) {
    if (!this.selected) return
    const characters = codePoints(this.text, this.selected.end) + step
    const end = units(this.text, characters)
    if (characters >= 0 && end > this.selected.start && end <= this.text.length) this.select(this.selected.start, end)
  }

  select(start, end) {
    this.selected = { start, end }
    this.root.querySelector("[role=status]").textContent = this.text.slice(start, end)
    this.draw()
    this.box.querySelector(".selected")?.scrollIntoView({ block: "nearest" })
  }

  takeSelection() {
    const selection = document.getSelection()
    if (!selection?.rangeCount || selection.isCollapsed) return
    const range = selection.getRangeAt(0)
    if (!this.box.contains(range.startContainer) || !this.box.contains(range.endContainer)) return
    const before = document.createRange()
    before.setStart(this.box, 0)
    before.setEnd(range.startContainer, range.startOffset)
    const start = before.toString().length
    this.selected = trim(this.text, start, start + range.toString().length)
    const at = this.words.findIndex((word) => word.end > start)
    this.anchor = this.head = Math.max(at, 0)
  }

  click(target) {
    const label = target.closest("[data-label]")?.dataset.label
    const gone = target.closest("[data-remove]")?.closest("li")
    if (label !== undefined) this.mark(label)
    else if (gone?.dataset.mark) this.remove(new Set([Number(gone.dataset.mark)]))
    else if (gone) this.relations.splice(Number(gone.dataset.relation), 1)
    else if (target.closest("[data-relate]")) this.relate()
    else return
    this.change()
  }

  mark(label) {
    if (!this.selected || this.selected.start >= this.selected.end) return
    const { start, end } = this.selected
    if (this.marks.some((one) => one.start === start && one.end === end && one[this.name] === label)) return
    const place = { start, end, text: this.text.slice(start, end), [this.name]: label }
    const before = [...this.marks]
    const order = (a, b) => a.start - b.start || a.end - b.end || (a[this.name] < b[this.name] ? -1 : 1)
    this.marks = [...this.marks, place].sort(order)
    this.follow(before)
    document.getSelection()?.removeAllRanges()
    this.box.focus()
  }

  removeSelected() {
    const { start, end } = this.selected ?? { start: 0, end: 0 }
    this.remove(new Set(this.marks.flatMap((one, at) => (one.start < end && start < one.end ? [at] : []))))
    this.change()
  }

  remove(places) {
    const before = [...this.marks]
    this.marks = this.marks.filter((_, at) => !places.has(at))
    this.follow(before)
    this.box.focus()
  }

  /* Relations point to marks by their places in the list, which has changed. */
  follow(before) {
    const moved = (at) => this.marks.indexOf(before[at])
    this.relations = this.relations
      .map((one) => ({ ...one, from: moved(one.from), to: moved(one.to) }))
      .filter((one) => one.from >= 0 && one.to >= 0)
    this.sortRelations()
  }

  relate() {
    const [from, to] = ["from", "to"].map((end) => Number(this.root.querySelector(`[data-end=${end}]`).value))
    const label = this.root.querySelector("[data-relation]").value
    if (from === to || this.marks.length < 2 || this.relations.some((one) => same(one, { from, to, label }))) return
    this.relations.push({ from, to, label })
    this.sortRelations()
  }

  sortRelations() {
    this.relations.sort((a, b) => a.from - b.from || a.to - b.to || (a.label < b.label ? -1 : 1))
  }

  change() {
    this.draw()
    this.list()
    changed(this.box)
  }

  /* The text in pieces that begin and end where marks and the selection do. */
  draw() {
    const edges = new Set([0, this.text.length])
    for (const one of [...this.marks, this.selected]) if (one) edges.add(one.start).add(one.end)
    const cuts = [...edges].sort((a, b) => a - b)
    const pieces = cuts.slice(0, -1).map((start, at) => this.piece(start, cuts[at + 1]))
    this.box.replaceChildren(...pieces)
  }

  piece(start, end) {
    const piece = document.createElement("span")
    piece.textContent = this.text.slice(start, end)
    const over = this.marks.filter((one) => one.start <= start && end <= one.end)
    const ends = over.filter((one) => one.end === end)
    if (over.length) piece.classList.add("mark", `l${this.labels.indexOf(over.at(-1)[this.name]) % 8}`)
    if (over.length > 1) piece.classList.add("several")
    if (ends.length) piece.dataset.ends = ends.map((one) => one[this.name]).join(", ")
    if (this.selected && this.selected.start <= start && end <= this.selected.end) piece.classList.add("selected")
    return piece
  }

  list() {
    const template = this.root.querySelector("template").content.firstElementChild
    const rows = this.marks.map((one, at) => {
      const row = template.cloneNode(true)
      row.dataset.mark = String(at)
      fill(row, one[this.name], one.text)
      const comment = row.querySelector("input")
      if (comment) {
        comment.value = one.comment ?? ""
        comment.addEventListener("input", () => (one.comment = comment.value))
      }
      return row
    })
    this.root.querySelector(".marks").replaceChildren(...rows)
    this.root.querySelector(".relations")?.replaceChildren(...this.related(template))
    const [from, to] = this.root.querySelectorAll("[data-end]")
    for (const end of from ? [from, to] : []) {
      const kept = Number(end.value)
      end.replaceChildren(...this.marks.map((one, at) => new Option(`${at + 1} ${one.text}`, String(at))))
      end.value = String(kept < this.marks.length ? kept : 0)
    }
    if (from && from.value === to.value) to.value = String(Number(from.value) ? 0 : this.marks.length - 1)
  }

  related(template) {
    return this.relations.map((one, at) => {
      const row = template.cloneNode(true)
      row.dataset.relation = String(at)
      fill(row, one.label, `${this.marks[one.from].text} → ${this.marks[one.to].text}`)
      return row
    })
  }

  /* With places in code points, as they are kept. */
  read() {
    return this.marks.map(({ comment, ...one }) => ({
      ...one,
      start: codePoints(this.text, one.start),
      end: codePoints(this.text, one.end),
      ...(comment?.trim() ? { comment: comment.trim() } : {}),
    }))
  }

  show(marks, relations) {
    this.marks = marks.map((one) => ({ ...one, start: units(this.text, one.start), end: units(this.text, one.end) }))
    this.relations = relations.map((one) => ({ ...one }))
    this.selected = null
    this.draw()
    this.list()
  }
}

const codePoints = (text, at) => [...text.slice(0, at)].length
const units = (text, at) => [...text].slice(0, Math.max(at, 0)).join("").length

function trim(text, start, end) {
  const chosen = text.slice(start, end)
  const from = start + chosen.length - chosen.trimStart().length
  return chosen.trim() ? { start: from, end: from + chosen.trim().length } : null
}

function fill(row, label, quoted) {
  row.querySelector(".badge").textContent = label
  row.querySelector("q").textContent = quoted
  const remove = row.querySelector("[data-remove]")
  remove.setAttribute("aria-label", `${remove.textContent}: ${label}, ${quoted}`)
}

const spans = {
  prepare: (root) => surfaces.set(root, new Surface(root, "label")),
  read: (root) => ({ spans: surfaces.get(root).read(), relations: surfaces.get(root).relations.map((one) => ({ ...one })) }),
  show: (root, value) => surfaces.get(root).show(value?.spans ?? [], value?.relations ?? []),
}

const faults = {
  prepare: (root) => surfaces.set(root, new Surface(root, "severity")),
  read: (root) => surfaces.get(root).read(),
  show: (root, value) => surfaces.get(root).show(value ?? [], []),
}

const kinds = {
  choice: oneOf, choices, tree, spans, pair: oneOf, ranking, rating, rubric, text, correction, json, faults,
}
