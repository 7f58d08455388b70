// Draws the plots of a page, with their sliders, by the plotly that lies beside it.
document.querySelectorAll(".alive").forEach((place) => {
  const figure = JSON.parse(place.querySelector("script").textContent);
  const layout = { ...figure.layout, autosize: true };
  delete layout.width;
  Plotly.newPlot(place, figure.data, layout, { responsive: true, displaylogo: false }).then(() => {
    if (figure.frames) Plotly.addFrames(place, figure.frames);
  });
});
