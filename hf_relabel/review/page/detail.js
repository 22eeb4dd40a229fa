"use strict";
// One image: photo, masks, windows, labels, regions. All text from data is set as textContent.

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const byId = (id) => document.getElementById(id);

const DETAIL = {
  entry: null,
  details: null,
  decoded: [],
  shown: [],
  hovered: -1,

  get isOpen() { return !byId("detail").hidden; },

  async open(entry) {
    this.entry = entry;
    this.details = null;
    this.hovered = -1;
    const row = entry.row;
    byId("detail").hidden = false;
    byId("image-id").textContent = row[ID];
    byId("overlay").hidden = true;
    byId("window-grid").replaceChildren();
    byId("photo").hidden = !row[FILE];
    byId("unreadable").hidden = Boolean(row[FILE]);
    if (row[FILE]) {
      byId("photo").src = `photos/${row[FILE]}`;
      byId("photo").alt = row[ID];
    }
    byId("previous").disabled = !GALLERY.neighbor(-1);
    byId("next").disabled = !GALLERY.neighbor(1);
    this.showLabels();
    byId("regions").replaceChildren();
    REVIEW.ask(entry);
    const details = await GALLERY.details(entry.number);
    if (this.entry !== entry) return;
    this.details = details;
    this.decoded = details.regions.map((region) => decodeMask(region.counts, ...details.size));
    this.shown = details.regions.map(() => true);
    this.showRegions();
    this.showWindows();
    this.draw();
  },

  close() {
    byId("detail").hidden = true;
    this.entry = null;
    byId("photo").removeAttribute("src");
  },

  draw() {
    if (!this.details) return;
    const masksOn = byId("masks").checked;
    byId("overlay").hidden = !masksOn || byId("photo").hidden;
    byId("window-grid").hidden = !byId("windows").checked;
    const asked = REVIEW.labelOf(this.entry);
    const bright = this.hovered < 0 && asked === null ? null
      : this.details.regions.map((region, number) => this.hovered < 0 ? region.label === asked : number === this.hovered);
    drawMasks(byId("overlay"), this.details.size, this.decoded, this.colors(), this.shown, bright);
  },

  colors() { return colorsOf(this.details.regions.map((region) => region.label)); },

  // The labels; with a truth, side by side as agreed, only in the release, and only in the truth.
  showLabels() {
    const row = this.entry.row;
    const listed = row[LABELS].map((label, place) => [label, GALLERY.chip(row, place)]);
    const blocks = [element("h2", "", "Labels")];
    if (row[TRUTH]) {
      const missing = missingOf(row).map((label) => element("span", "chip missing", GALLERY.name(label)));
      const columns = element("div", "side-by-side");
      for (const [title, chips] of [
        ["Agreed", listed.filter(([label]) => row[TRUTH].includes(label)).map(([, chip]) => chip)],
        ["Only in the release", listed.filter(([label]) => !row[TRUTH].includes(label)).map(([, chip]) => chip)],
        ["Only in the truth", missing],
      ]) {
        const column = element("div");
        column.append(element("h2", "", title), ...(chips.length ? chips : [element("span", "note", "none")]));
        columns.append(column);
      }
      blocks[0] = columns;
    } else {
      const chips = element("div", "chips");
      chips.append(...listed.map(([, chip]) => chip));
      blocks.push(listed.length ? chips : element("span", "note", "none"));
    }
    if (row[GIVEN] === null) {
      blocks.push(element("p", "note", "The image came without a label."));
    } else {
      const evidence = row[LABEL_SCORE] === null || REVIEW.active ? "" : `; a region shows it with probability ${row[LABEL_SCORE].toFixed(2)}`;
      blocks.push(element("p", "note", `Given label: ${GALLERY.name(row[GIVEN])}${evidence}.`));
    }
    byId("labels").replaceChildren(...blocks);
  },

  showRegions() {
    const { regions, others } = this.details;
    const colors = this.colors();
    const blocks = [element("h2", "", regions.length ? `Regions (${regions.length})` : "No regions")];
    const asked = REVIEW.labelOf(this.entry);
    regions.forEach((region, number) => {
      const block = element("div", region.label === asked ? "region asked" : "region");
      block.style.setProperty("--color", `rgb(${colors[number]})`);
      const head = element("div", "bar");
      const box = element("input");
      box.type = "checkbox";
      box.checked = true;
      box.id = `region-${number}`;
      box.setAttribute("aria-label", `Show region ${number + 1}`);
      box.addEventListener("change", () => { this.shown[number] = box.checked; this.draw(); });
      head.append(box, element("strong", "", GALLERY.name(region.label)), element("span", "spacer"));
      head.append(element("span", "note", region.score.toFixed(2)));
      if (number < 9) head.append(element("kbd", "", String(number + 1)));
      block.append(head);
      for (const [label, score] of region.top.filter((item, place) => place === 0 || item[1] >= 0.01)) block.append(scoreBar(GALLERY.name(label), score));
      const notes = [region.generator && `mask: ${region.generator}`, region.trained].filter(Boolean);
      if (notes.length) block.append(element("p", "note reason", notes.join("; ")));
      block.addEventListener("mouseenter", () => { this.hovered = number; this.draw(); });
      block.addEventListener("mouseleave", () => { this.hovered = -1; this.draw(); });
      blocks.push(block);
    });
    if (others && others.length && !REVIEW.active) {
      blocks.push(element("h2", "", "Not listed, by probability"));
      for (const [label, score] of others) blocks.push(scoreBar(GALLERY.name(label), score));
    }
    byId("regions").replaceChildren(...blocks);
  },

  showWindows() {
    const windows = this.details.windows || [];
    byId("windows-label").hidden = !windows.length;
    const side = Math.round(Math.sqrt(windows.length));
    const grid = byId("window-grid");
    grid.style.gridTemplate = `repeat(${side}, 1fr) / repeat(${side}, 1fr)`;
    grid.replaceChildren(...windows.map(([label, score, trained]) => {
      const isSure = label >= 0 && score >= 0.1;
      const cell = element("span", isSure ? "" : "faint", isSure ? `${GALLERY.name(label)} ${score.toFixed(2)}` : "");
      cell.title = trained;
      return cell;
    }));
  },

  toggle(number) {
    const box = byId(`region-${number}`);
    if (box) box.click();
  },

  clicked(event) {
    if (!this.details || byId("overlay").hidden) return;
    const frame = byId("overlay").getBoundingClientRect();
    const [x, y] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    const number = regionAt(this.details.size, this.decoded, this.shown, x, y);
    if (number >= 0 && REVIEW.active) {
      REVIEW.pick(this.entry, this.details.regions[number]);
    } else {
      this.hovered = number === this.hovered ? -1 : number;
      this.draw();
    }
  },
};

function scoreBar(name, score) {
  const bar = element("div", "score");
  const outer = element("i"), inner = element("b");
  inner.style.width = `${Math.round(100 * score)}%`;
  outer.append(inner);
  bar.append(element("span", "", name), outer, element("em", "", score.toFixed(2)));
  return bar;
}
