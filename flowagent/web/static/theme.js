// Runs before the first paint, so that nobody who chose dark sees a white flash.
try {
  const chosen = localStorage.getItem("flowagent-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // no storage: the system's preference holds
}
