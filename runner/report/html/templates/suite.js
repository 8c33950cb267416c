"use strict";
(() => {
  const table = document.getElementById("runs"), body = table.tBodies[0];
  const rows = [...body.rows], order = new Map(rows.map((row, index) => [row, index]));
  const name = document.getElementById("name"), show = document.getElementById("show");
  const sort = document.getElementById("order"), heads = [...table.tHead.rows[0].cells];
  const boxes = [...document.querySelectorAll(".outcomes input")];
  const shown = document.getElementById("shown"), none = document.getElementById("none");
  let column = 0, rising = false;

  const read = row => {
    const place = column ? row.cells[column] : row;
    const value = place.dataset[column ? show.value : sort.value];
    return value === undefined ? null : Number(value);
  };
  const arrange = () => {
    const figures = new Map(rows.map(row => [row, read(row)]));
    const named = !column && sort.value === "name";
    rows.sort((a, b) => {
      const x = figures.get(a), y = figures.get(b), before = order.get(a) - order.get(b);
      if (named || x === y) return before;
      if (x === null || y === null) return x === null ? 1 : -1;
      return rising ? x - y : y - x;
    });
    heads.forEach((head, index) => {
      if (column && index === column) head.ariaSort = rising ? "ascending" : "descending";
      else head.removeAttribute("aria-sort");
    });
    body.append(...rows);
  };
  const filter = () => {
    const words = name.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set(boxes.filter(box => box.checked).map(box => box.value));
    let count = 0;
    for (const row of rows) {
      const text = row.cells[0].textContent.toLowerCase();
      const fits = words.every(word => text.includes(word))
        && row.dataset.outcomes.split(" ").some(outcome => wanted.has(outcome));
      row.hidden = !fits;
      count += fits;
    }
    none.hidden = count > 0;
    shown.textContent = `${count} of ${rows.length} models`;
  };
  const look = () => {
    table.className = `stack ${show.value}`;
    if (column) arrange();
  };
  name.addEventListener("input", filter);
  boxes.forEach(box => box.addEventListener("change", filter));
  show.addEventListener("change", look);
  sort.addEventListener("change", () => {
    column = 0;
    if (sort.value !== "name") { show.value = sort.value; }
    look();
    arrange();
  });
  table.tHead.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (!button) return;
    const chosen = Number(button.dataset.column);
    rising = chosen === column ? !rising : false;
    column = chosen;
    arrange();
  });
  const tabs = [...document.querySelectorAll(".tabs input")];
  const turn = () => tabs.forEach(tab => {
    document.getElementById(tab.id.replace("tab-", "")).hidden = !tab.checked;
  });
  tabs.forEach(tab => tab.addEventListener("change", turn));
  turn();
  // A reload keeps what was typed and chosen.
  look();
  if (sort.value !== "name") arrange();
  filter();
})();
