"use strict";
try {
  const kept = localStorage.getItem("luthier-scheme");
  if (kept === "dark" || kept === "light") document.documentElement.dataset.scheme = kept;
} catch (refused) { /* storage may be switched off */ }
