"use strict";
// The list of images: filters, pages, the keyboard.

const PAGE_SIZE = 60;

const KEYS = [
  ["arrows", "move in the list; previous and next image"], ["Enter", "open the image"], ["Esc", "back to the list"],
  ["j k", "next and previous image"], ["PageUp PageDown", "previous and next page"], ["m", "masks on and off"],
  ["w", "windows on and off"], ["1 to 9", "one region on and off"], ["/", "find an image"], ["r", "reset the filters"],
  ["?", "this list"],
];
const REVIEW_KEYS = [["y n u", "true, false, unsure"], ["a", "add a missing label"], ["z", "undo the last answer"],
  ["s", "save review.json"]];

const GALLERY = {
  data: null,
  all: [],
  entries: [],
  page: 0,
  current: 0,
  chunks: new Map(),

  name(label) { return this.data.classes[label] ?? `class ${label}`; },

  // Called by data/index.js.
  index(data) {
    this.data = data;
    const places = new Map(data.rows.map((row, number) => [row[ID], number]));
    this.all = data.review
      ? data.review.items.map(([image, label], number) => (
        { row: data.rows[places.get(image)], number: places.get(image), item: { number, label } }))
      : data.rows.map((row, number) => ({ row, number }));
    byId("title").textContent = `${data.name} ${data.version}`;
    document.title = `${data.name} ${data.version}`;
    for (const [label, name] of data.classes.entries()) {
      const choice = element("option", "", name);
      choice.value = label;
      byId("class").append(choice);
      const named = element("option");
      named.value = name;
      byId("class-names").append(named);
    }
    for (const [name, text, , needsTruth] of DISAGREEMENTS) {
      if (needsTruth && !data.has_truth) continue;
      const choice = element("option", "", text);
      choice.value = name;
      byId("disagreement").append(choice);
    }
    if (data.review) byId("sort").options[0].textContent = "as asked";
    REVIEW.start(data.review);
    listen();
    this.filter();
  },

  // Called by data/regions-*.js.
  chunk(records) { this.arrived = records; },

  details(number) {
    const chunk = Math.floor(number / this.data.chunk);
    if (!this.chunks.has(chunk)) {
      this.chunks.set(chunk, new Promise((resolve, reject) => {
        const script = element("script");
        script.src = `data/regions-${String(chunk).padStart(5, "0")}.js`;
        script.onload = () => resolve(this.arrived); // scripts run one at a time, each right before its own event
        script.onerror = () => reject(new Error(`${script.src}: cannot be read`));
        document.head.append(script);
      }));
    }
    return this.chunks.get(chunk).then((records) => records[number % this.data.chunk]);
  },

  filter() {
    const value = (id) => byId(id).value;
    const filter = {
      find: value("find").trim().toLowerCase(),
      label: value("class") === "" ? null : Number(value("class")),
      kind: value("kind"),
      number: value("number"),
      low: Number(value("low") || 0),
      high: value("high") === "" ? 1 : Number(value("high")),
      disagreement: value("disagreement"),
    };
    this.entries = sorted(this.all.filter((entry) => passes(entry.row, filter)), value("sort"));
    this.page = this.current = 0;
    const what = this.data.review ? "questions" : "images";
    const of = this.data.total > this.data.rows.length ? ` (of ${this.data.total.toLocaleString()} in the release)` : "";
    byId("count").textContent =
      `${this.entries.length.toLocaleString()} of ${this.all.length.toLocaleString()} ${what}${this.data.review ? "" : of}`;
    this.show();
  },

  show() {
    const first = this.page * PAGE_SIZE;
    const pages = Math.max(1, Math.ceil(this.entries.length / PAGE_SIZE));
    byId("grid").replaceChildren(
      ...this.entries.slice(first, first + PAGE_SIZE).map((entry, place) => this.cell(entry, first + place)));
    byId("empty").hidden = this.entries.length > 0;
    byId("pages").hidden = pages === 1;
    byId("page").textContent = `page ${this.page + 1} of ${pages}`;
    byId("previous-page").disabled = this.page === 0;
    byId("next-page").disabled = this.page === pages - 1;
    this.mark();
  },

  cell(entry, place) {
    const { row } = entry;
    const cell = element("button", "cell");
    cell.type = "button";
    cell.dataset.place = place;
    cell.title = row[ID];
    const picture = element("span", "picture", row[FILE] ? undefined : "no photo");
    if (row[FILE]) {
      const image = element("img");
      image.loading = "lazy";
      image.decoding = "async";
      image.alt = "";
      image.src = `thumbs/${row[FILE]}`;
      picture.append(image);
    }
    const text = element("span", "text");
    if (entry.item) {
      const answer = REVIEW.answerOf(entry);
      text.append(element("span", `chip ${answer || ""}`, this.name(entry.item.label)));
      text.append(element("span", "note", answer || "open"));
    } else {
      text.append(...row[LABELS].map((_, number) => this.chip(row, number)));
      text.append(...missingOf(row).map((label) => element("span", "chip missing", `missing: ${this.name(label)}`)));
      if (!row[LABELS].length) text.append(element("span", "note", "no label"));
    }
    cell.append(picture, text);
    cell.addEventListener("click", () => this.open(entry));
    return cell;
  },

  chip(row, place) {
    const label = row[LABELS][place], isGiven = label === row[GIVEN];
    const isWrong = row[TRUTH] && !row[TRUTH].includes(label);
    const text = isGiven || REVIEW.active ? this.name(label) : `${this.name(label)} ${row[SCORES][place].toFixed(2)}`;
    const chip = element("span", `chip ${isWrong ? "wrong" : isGiven ? "given" : "added"}`, text);
    chip.title = `${isGiven ? "given" : "added"}${isWrong ? ", wrong by the truth" : ""}`;
    return chip;
  },

  mark() {
    for (const cell of byId("grid").children) {
      const isCurrent = Number(cell.dataset.place) === this.current;
      cell.classList.toggle("current", isCurrent);
      if (isCurrent && !DETAIL.isOpen) cell.scrollIntoView({ block: "nearest" });
    }
  },

  move(steps) {
    if (!this.entries.length) return;
    this.current = Math.max(0, Math.min(this.entries.length - 1, this.current + steps));
    const page = Math.floor(this.current / PAGE_SIZE);
    if (page !== this.page) { this.page = page; this.show(); } else this.mark();
  },

  turn(pages) { this.current = this.page * PAGE_SIZE; this.move(pages * PAGE_SIZE); },

  neighbor(step) { return this.entries[this.current + step]; },

  open(entry) {
    this.move(this.entries.indexOf(entry) - this.current);
    return DETAIL.open(entry);
  },

  update(entry) {
    const place = this.entries.indexOf(entry);
    const old = [...byId("grid").children].find((cell) => Number(cell.dataset.place) === place);
    if (old) old.replaceWith(this.cell(entry, place));
  },

  columns() { return getComputedStyle(byId("grid")).gridTemplateColumns.split(" ").length; },
};

function listen() {
  const on = (id, event, action) => byId(id).addEventListener(event, action);
  on("filters", "input", () => GALLERY.filter());
  on("filters", "submit", (event) => event.preventDefault());
  on("filters", "reset", () => setTimeout(() => GALLERY.filter()));
  on("previous-page", "click", () => GALLERY.turn(-1));
  on("next-page", "click", () => GALLERY.turn(1));
  on("close", "click", () => closeDetail());
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("masks", "change", () => DETAIL.draw());
  on("windows", "change", () => DETAIL.draw());
  on("photo", "load", () => {
    const { naturalWidth, naturalHeight } = byId("photo");
    byId("stage").style.setProperty("--ratio", naturalWidth / naturalHeight);
    byId("stage").style.setProperty("--pixels", naturalWidth);
  });
  on("stage", "click", (event) => DETAIL.clicked(event));
  on("yes", "click", () => REVIEW.answer("true"));
  on("no", "click", () => REVIEW.answer("false"));
  on("unsure", "click", () => REVIEW.answer("unsure"));
  on("download", "click", () => REVIEW.save());
  on("reviewer", "input", () => REVIEW.keep());
  on("show-help", "click", () => showHelp());
  on("add", "submit", (event) => {
    event.preventDefault();
    if (REVIEW.add(byId("add-class").value)) {
      byId("add-class").value = "";
      byId("add-class").blur();
    }
  });
  document.addEventListener("keydown", pressed);
}

function step(steps) {
  const entry = GALLERY.neighbor(steps);
  if (entry) GALLERY.open(entry);
}

function closeDetail() {
  DETAIL.close();
  GALLERY.mark();
}

function showHelp() {
  byId("keys").replaceChildren(...[...KEYS, ...(REVIEW.active ? REVIEW_KEYS : [])].map(([key, text]) => {
    const line = element("tr"), cell = element("td");
    cell.append(element("kbd", "", key));
    line.append(cell, element("td", "", text));
    return line;
  }));
  byId("help").showModal();
}

function focusOn(id) {
  byId(id).focus();
  byId(id).select();
}

const IN_LIST = {
  ArrowRight: () => GALLERY.move(1), ArrowLeft: () => GALLERY.move(-1),
  ArrowDown: () => GALLERY.move(GALLERY.columns()), ArrowUp: () => GALLERY.move(-GALLERY.columns()),
  j: () => GALLERY.move(1), k: () => GALLERY.move(-1),
  PageDown: () => GALLERY.turn(1), PageUp: () => GALLERY.turn(-1),
  Enter: () => GALLERY.entries.length && GALLERY.open(GALLERY.entries[GALLERY.current]),
  "/": () => focusOn("find"), r: () => byId("filters").reset(),
};

const IN_DETAIL = {
  ArrowRight: () => step(1), ArrowLeft: () => step(-1), j: () => step(1), k: () => step(-1),
  Escape: closeDetail, m: () => byId("masks").click(), w: () => byId("windows").click(),
  y: () => REVIEW.answer("true"), n: () => REVIEW.answer("false"), u: () => REVIEW.answer("unsure"),
  a: () => REVIEW.active && focusOn("add-class"),
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const target = event.target;
  if (target.matches("input:not([type=checkbox]), select")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  const always = { "?": showHelp, z: () => REVIEW.active && REVIEW.undo(), s: () => REVIEW.active && REVIEW.save() };
  let action = { ...always, ...(DETAIL.isOpen ? IN_DETAIL : IN_LIST) }[event.key];
  if (DETAIL.isOpen && /^[1-9]$/.test(event.key)) action = () => DETAIL.toggle(event.key - 1);
  if (event.key === "Enter" && target.matches("button") && !target.matches(".cell")) return;
  if (!action) return;
  event.preventDefault();
  action();
}
