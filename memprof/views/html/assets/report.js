"use strict";
(() => {
  const root = document.documentElement;
  const probe = document.getElementById("probe");
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
  const canDrag = matchMedia("(pointer: fine)").matches;
  const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };
  const figures = new Map();

  const css = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };

  // Fields that hold colours may name a variable of the page ("@ink"), so that one figure serves light and dark.
  const painted = (value, isColor = false) => {
    if (typeof value === "string") return isColor && value[0] === "@" ? css(value.slice(1)) : value;
    if (Array.isArray(value)) return value.map((item) => painted(item, isColor));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, /colors?$/.test(key))]));
  };

  // The names of phases, upright where they are narrow.
  const bandNames = (chart, bands, range) => {
    const scale = (chart.clientWidth - 70) / (range[1] - range[0]);
    return bands.flatMap(([from, to, text]) => {
      const [start, end] = [Math.max(from, range[0]), Math.min(to, range[1])];
      const room = (end - start) * scale;
      if (room < 14) return [];
      const note = { text, showarrow: false, x: (start + end) / 2, y: 1, yref: "paper", yanchor: "bottom" };
      const upright = room < 8 * text.length ? { textangle: -90, yanchor: "top" } : {};
      return [{ font: { size: 12, color: css("muted") }, ...note, ...upright }];
    });
  };

  const draw = (chart) => {
    const { figure, view } = figures.get(chart);
    const data = painted(figure.data);
    const layout = painted(figure.layout);
    layout.height = figure.height;
    if (figure.bands.length) {
      layout.dragmode = canDrag ? "zoom" : false;
      if (view.range) layout.xaxis.range = view.range;
      layout.annotations.push(...bandNames(chart, figure.bands, layout.xaxis.range));
    }
    if (chart.clientWidth < 520) layout.font.size = 11;
    if (view.level !== undefined) data[0].level = view.level;
    return Plotly.react(chart, data, layout, config);
  };

  const drawAll = () => figures.forEach((_, chart) => draw(chart));

  const open = (chart, level) => {
    figures.get(chart).view.level = level;
    draw(chart);
    chart.scrollIntoView({ block: "nearest" });
  };

  document.querySelectorAll(".chart").forEach((chart) => {
    const figure = JSON.parse(chart.nextElementSibling.textContent);
    const view = {};
    figures.set(chart, { figure, view });
    chart.replaceChildren();
    draw(chart);
    chart.on("plotly_relayout", (change) => {
      if (!Object.keys(change).some((key) => key.startsWith("xaxis"))) return;
      view.range = [...chart.layout.xaxis.range];
      draw(chart);
    });
    chart.on("plotly_icicleclick", (event) => {
      view.level = event.nextLevel;
    });
    chart.closest("figure").querySelectorAll("[data-relayout]").forEach((button) => {
      button.addEventListener("click", () => Plotly.relayout(chart, JSON.parse(button.dataset.relayout)));
    });
  });

  document.querySelectorAll("[data-level]").forEach((button) => {
    const charts = [...button.closest("article").querySelectorAll(".chart")];
    const icicle = charts.find((chart) => figures.get(chart).figure.data[0].type === "icicle");
    button.addEventListener("click", () => open(icicle, button.dataset.level));
  });

  const theme = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);
  const retitle = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
  };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    retitle();
    drawAll();
  });
  systemIsDark.addEventListener("change", () => {
    retitle();
    drawAll();
  });
  retitle();

  let pending;
  addEventListener("resize", () => {
    clearTimeout(pending);
    pending = setTimeout(drawAll, 150);
  });
})();
