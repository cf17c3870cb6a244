"use strict";
// Comforts only: without this script the page shows everything, unsorted.

const root = document.documentElement;
const store = {
  get() { try { return localStorage.getItem("pyprod-theme"); } catch { return null; } },
  set(theme) { try { localStorage.setItem("pyprod-theme", theme); } catch { /* a file:// page may have no storage */ } },
};
if (store.get()) root.dataset.theme = store.get();
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  store.set(root.dataset.theme);
});

function sortBy(table, column, ascending) {
  const key = (row) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  };
  const rows = [...table.tBodies[0].rows];
  const failed = rows.filter((row) => row.classList.contains("failed")); // a failure stays below, whatever is asked
  const sorted = rows.filter((row) => !failed.includes(row)).map((row) => [key(row), row]);
  sorted.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what was not measured comes last
    return (ascending ? 1 : -1) * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(b));
  });
  table.tBodies[0].append(...sorted.map(([, row]) => row), ...failed);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, column, ascending);
    });
  });
}

function openTarget() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));

document.getElementById("copy")?.addEventListener("click", async (event) => {
  await navigator.clipboard.writeText(event.target.previousElementSibling.textContent);
  event.target.textContent = "Copied";
});
