// Code and tables that scroll can be reached by the keyboard; the buttons of a code block are not a landmark of the page; the
// dialog of the search has a name.
function makeAccessible() {
  for (const part of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) {
    if (part.scrollWidth > part.clientWidth && !part.hasAttribute("tabindex")) part.tabIndex = 0;
  }
  for (const buttons of document.querySelectorAll("nav.md-code__nav:not([role])")) buttons.setAttribute("role", "none");
  document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "Search");
}

new MutationObserver(makeAccessible).observe(document.body, {childList: true, subtree: true, attributeFilter: ["tabindex"]});
addEventListener("resize", makeAccessible);
makeAccessible();
