// Ctrl K (on a Mac ⌘ K) leads to the search from every page.
document.addEventListener("keydown", (event) => {
  const field = document.getElementById("search-everywhere");
  if (!field || !(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "k") return;
  event.preventDefault();
  field.focus();
  field.select();
});
