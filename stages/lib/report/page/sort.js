// Sorts the rows of every <table class="sortable"> by the column of a heading that says how: <th data-sort="number|text">.
// The heading stands in a header row that has a cell per column. A cell's value is its data-value, or else its text, of
// which a number is the beginning ("80.1 ± 2.0"). Missing values ("–", empty) stay last either way; equal rows keep their order.
for (const heading of document.querySelectorAll("table.sortable th[data-sort]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => sort(heading));
}

function sort(heading) {
  const table = heading.closest("table"), kind = heading.dataset.sort;
  const first = kind === "number" ? "descending" : "ascending"; // the best scores first, names from A
  const order = heading.ariaSort === "descending" || (!heading.ariaSort && first === "ascending") ? "ascending" : "descending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  heading.ariaSort = order;
  const earlier = [...heading.parentElement.cells].slice(0, heading.cellIndex);
  const column = earlier.reduce((sum, cell) => sum + cell.colSpan, 0);
  const sign = order === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].map((row) => [value(row.cells[column], kind), row]);
    rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
    body.append(...rows.map(([, row]) => row));
  }
}

function value(cell, kind) {
  const text = (cell?.dataset.value ?? cell?.textContent ?? "").trim();
  if (kind === "text") return text === "" || text === "–" ? null : text;
  const number = parseFloat(text.replaceAll(",", "").replace("−", "-"));
  return Number.isNaN(number) ? null : number;
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
}
