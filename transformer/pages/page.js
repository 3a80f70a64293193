// Follow the links of the contents. MLflow shows a page in a sandboxed frame, where a browser follows none by itself.
for (const link of document.querySelectorAll(".contents a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    link.closest("details").open = false;
    const heading = document.getElementById(link.getAttribute("href").slice(1));
    heading.scrollIntoView();
    heading.focus({ preventScroll: true });
  });
}
