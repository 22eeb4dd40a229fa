"use strict";
// Answers about a sample of added labels, and changes; kept in the browser and saved as review.json.

const REVIEW = {
  active: false,
  sample: null,
  answers: {}, // by number of the item: {answer, when}
  changes: [], // {image, region, old, new, when} or {image, label, old, new, when}
  order: [], // numbers of the answered items, the latest last

  start(sample) {
    this.sample = sample;
    this.active = sample !== null;
    byId("review-bar").hidden = !this.active;
    document.body.classList.toggle("review", this.active); // no scores: they would suggest the answer
    if (!this.active) return;
    try {
      const kept = JSON.parse(localStorage.getItem(this.key)) || {};
      Object.assign(this, { answers: kept.answers || {}, changes: kept.changes || [], order: kept.order || [] });
      byId("reviewer").value = kept.reviewer || "";
    } catch { /* no storage for files in this browser: answers last until the page is closed */ }
    this.showProgress();
  },

  get key() { return `hf_relabel review ${this.sample.id}`; },

  keep() {
    try {
      const { answers, changes, order } = this;
      localStorage.setItem(this.key, JSON.stringify({ answers, changes, order, reviewer: byId("reviewer").value }));
    } catch { /* as above */ }
    this.showProgress();
  },

  showProgress() {
    const answered = Object.keys(this.answers).length, all = this.sample.items.length;
    byId("progress").textContent = `${answered} of ${all} answered`;
    byId("asked").textContent = answered < all ? byId("progress").textContent : "All answered: save review.json (s).";
  },

  labelOf(entry) { return this.active && entry ? entry.item.label : null; },

  answerOf(entry) { return (this.answers[entry.item.number] || {}).answer; },

  ask(entry) {
    byId("question").hidden = !this.active;
    if (!this.active) return;
    byId("ask").replaceChildren("Does the photo show ", element("strong", "", GALLERY.name(entry.item.label)), "?");
    for (const [id, answer] of [["yes", "true"], ["no", "false"], ["unsure", "unsure"]]) {
      byId(id).classList.toggle("chosen", this.answerOf(entry) === answer);
    }
    byId("add-class").value = "";
    this.showChanges(entry);
  },

  answer(value) {
    const entry = DETAIL.entry;
    if (!this.active || !entry) return;
    const number = entry.item.number;
    this.answers[number] = { answer: value, when: new Date().toISOString() };
    this.order = [...this.order.filter((other) => other !== number), number];
    this.keep();
    GALLERY.update(entry);
    const next = GALLERY.neighbor(1);
    if (next) GALLERY.open(next); else this.ask(entry);
  },

  undo() {
    const number = this.order.pop();
    if (number === undefined) return;
    delete this.answers[number];
    this.keep();
    const entry = GALLERY.entries.find((other) => other.item.number === number);
    GALLERY.update(entry);
    if (DETAIL.isOpen) GALLERY.open(entry);
  },

  // Record a change of the open image; a later change of the same label or region replaces it.
  change(change) {
    const isSame = (other) => other.image === change.image && other.region === change.region && other.label === change.label;
    this.changes = this.changes.filter((other) => !isSame(other));
    if (change.old !== change.new) this.changes.push({ ...change, when: new Date().toISOString() });
    this.keep();
    this.showChanges(DETAIL.entry);
  },

  showChanges(entry) {
    const own = this.changes.filter((change) => change.image === entry.row[ID]);
    byId("changes").replaceChildren(...own.map((change) => {
      const text = change.region === undefined
        ? `${change.label}: ${change.new ? "in the photo" : "not in the photo"}`
        : `region ${change.old} → ${change.new === null ? "no object" : change.new}`;
      const line = element("li", "", text);
      const remove = element("button", "", "undo");
      remove.type = "button";
      remove.addEventListener("click", () => this.change({ ...change, new: change.old }));
      line.append(remove);
      return line;
    }));
  },

  add(name) {
    const entry = DETAIL.entry;
    const label = GALLERY.data.classes.indexOf(name);
    if (label < 0) return false;
    this.change({ image: entry.row[ID], label: name, old: entry.row[LABELS].includes(label), new: true });
    return true;
  },

  pick(entry, region) {
    const dialog = byId("picker");
    byId("picker-title").textContent = `This region is labeled ${GALLERY.name(region.label)}. What does it show?`;
    byId("picker-class").value = "";
    dialog.returnValue = "cancel";
    dialog.onclose = () => {
      const name = byId("picker-class").value;
      const isClass = GALLERY.data.classes.includes(name);
      const isNothing = dialog.returnValue === "none"; // the Escape key leaves any other value
      if (!isNothing && !(dialog.returnValue === "ok" && isClass)) return;
      const shows = isNothing ? null : name;
      this.change({ image: entry.row[ID], region: region.id, old: GALLERY.name(region.label), new: shows });
    };
    dialog.showModal();
    byId("picker-class").focus();
  },

  result() {
    const { id, release, strata, items } = this.sample;
    const answers = items.map(([image, label, score, stratum], number) => ({
      image, label: GALLERY.name(label), score, stratum, ...this.answers[number],
    })).filter((item) => item.answer);
    const reviewer = byId("reviewer").value.trim() || "unnamed";
    return { format: "hf_relabel review", format_version: 1, sample: id, release, strata, items: items.length,
      reviewer, saved: new Date().toISOString(), answers, changes: this.changes };
  },

  save() {
    const blob = new Blob([JSON.stringify(this.result(), null, 1)], { type: "application/json" });
    const link = element("a");
    link.href = URL.createObjectURL(blob);
    link.download = "review.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  },
};
