// Tables that scroll sideways can be reached with the keyboard.
const reachable = () => {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset__table")) {
    if (box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", "Table");
    }
  }
};
addEventListener("load", () => setTimeout(reachable));
addEventListener("resize", reachable);
