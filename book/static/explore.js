// The frames of {explore} are switched by the style sheet; this lets a screen reader hear what the new frame shows.
document.addEventListener("change", event => {
  const said = event.target.closest(".explore")?.querySelector("[role=status]");
  if (said && event.target.dataset.said) said.textContent = event.target.dataset.said;
});
