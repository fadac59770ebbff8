// Values under the pointer in learning curves. Without scripts the report loses nothing else.
"use strict";
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const series = JSON.parse(svg.dataset.chart);
  const figure = svg.closest("figure");
  const hair = document.createElementNS("http://www.w3.org/2000/svg", "line");
  hair.setAttribute("class", "hair");
  const tip = document.createElement("div");
  tip.className = "tip";
  const hide = () => { tip.remove(); hair.remove(); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const at = (event.clientX - box.left) * scale;
    let nearest = null;
    for (const s of series) {
      for (const p of s.points) {
        if (nearest === null || Math.abs(p[0] - at) < Math.abs(nearest[0] - at)) nearest = p;
      }
    }
    if (nearest === null) return;
    hair.setAttribute("x1", nearest[0]);
    hair.setAttribute("x2", nearest[0]);
    hair.setAttribute("y1", 10);
    hair.setAttribute("y2", svg.viewBox.baseVal.height - 36);
    svg.append(hair);
    const head = document.createElement("div");
    head.textContent = svg.dataset.axis + " " + nearest[2];
    tip.replaceChildren(head);
    for (const s of series) {
      const p = s.points.find((q) => q[2] === nearest[2]);
      if (p === undefined) continue;
      const row = document.createElement("div");
      const mark = document.createElement("i");
      mark.className = s.style;
      row.append(mark, s.name + "  " + p[3]);
      tip.append(row);
    }
    figure.append(tip);
    const frame = figure.getBoundingClientRect();
    const x = box.left - frame.left + nearest[0] / scale;
    const right = x + 12 + tip.offsetWidth > frame.width;
    tip.style.left = Math.max(4, right ? x - tip.offsetWidth - 12 : x + 12) + "px";
    // Below the plot, so that it hides no curve.
    tip.style.top = (box.bottom - frame.top + 2) + "px";
  });
}
