"use strict";
// Which images are listed, and in what order. A row is an array; these are its places.

const ID = 0, FILE = 1, GIVEN = 2, LABELS = 3, SCORES = 4, LABEL_SCORE = 5, WRONG = 6, MISSING = 7, SHOWN = 8, TRUTH = 9;

// Disagreements: name, text, test of a row, and whether it needs the true labels.
const DISAGREEMENTS = [
  ["doubtful", "given label doubtful (score below 0.5)", (row) => row[LABEL_SCORE] !== null && row[LABEL_SCORE] < 0.5],
  ["unseen", "no region shows the given label", (row) => row[GIVEN] !== null && !row[SHOWN].includes(row[GIVEN])],
  ["other", "a region shows a class that is not listed",
    (row) => row[SHOWN].some((label) => !row[LABELS].includes(label))],
  ["agree", "truth: all labels agree", (row) => row[TRUTH] && !wrongOf(row).length && !missingOf(row).length, true],
  ["wrong", "truth: an added label is wrong", (row) => wrongOf(row).some((label) => label !== row[GIVEN]), true],
  ["true", "truth: an added label is true",
    (row) => row[TRUTH] && row[LABELS].some((label) => label !== row[GIVEN] && row[TRUTH].includes(label)), true],
  ["missing", "truth: a label is missing", (row) => missingOf(row).length > 0, true],
  ["given", "truth: the given label is wrong",
    (row) => row[TRUTH] && row[GIVEN] !== null && !row[TRUTH].includes(row[GIVEN]), true],
];

function wrongOf(row) {
  return row[TRUTH] ? row[LABELS].filter((label) => !row[TRUTH].includes(label)) : [];
}

function missingOf(row) {
  return row[TRUTH] ? row[TRUTH].filter((label) => !row[LABELS].includes(label)) : [];
}

// Score of one label of a row; the given label has the evidence for it, where that was measured.
function scoreOf(row, place) {
  return row[LABELS][place] === row[GIVEN] ? row[LABEL_SCORE] ?? row[SCORES][place] : row[SCORES][place];
}

// Whether a row passes; `filter` has find, label (or null), kind, number, low, high, disagreement.
function passes(row, filter) {
  if (filter.find && !row[ID].toLowerCase().includes(filter.find)) return false;
  if (filter.number !== "" && (filter.number === "4" ? row[LABELS].length < 4 : row[LABELS].length !== +filter.number)) {
    return false;
  }
  const byScore = filter.low > 0 || filter.high < 1;
  if (filter.label !== null || filter.kind !== "any" || byScore) {
    const found = row[LABELS].some((label, place) =>
      (filter.label === null || label === filter.label) &&
      (filter.kind === "any" || (label === row[GIVEN]) === (filter.kind === "given")) &&
      (!byScore || (scoreOf(row, place) >= filter.low && scoreOf(row, place) <= filter.high)));
    const givenOnly = filter.kind === "given" && !byScore && row[GIVEN] !== null &&
      (filter.label === null || row[GIVEN] === filter.label);
    if (!found && !givenOnly) return false;
  }
  const disagreement = DISAGREEMENTS.find(([name]) => name === filter.disagreement);
  return !disagreement || Boolean(disagreement[2](row));
}

function sorted(rows, order) {
  const value = { wrong: (row) => row[WRONG], missing: (row) => row[MISSING], labels: (row) => row[LABELS].length }[order];
  return value ? [...rows].sort((a, b) => value(b.row) - value(a.row) || a.number - b.number) : rows;
}
