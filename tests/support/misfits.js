// The boxes of a page beyond its edges, apart from the content of boxes that scroll; and figures that are cut or
// blown up. On paper, nothing scrolls.
paper => {
  const name = box => `${box.tagName} ${box.className} ${box.textContent.trim().slice(0, 40)}`;
  const edge = document.documentElement.clientWidth;
  const scrolls = box => !paper && box.parentElement.closest('.scroll');
  const beyond = [...document.body.querySelectorAll('*')].filter(box => {
    const place = box.getBoundingClientRect();
    return place.width && !scrolls(box) && (place.left < -0.5 || place.right > edge + 0.5);
  });
  const cut = [...document.querySelectorAll('figure .scroll')].filter(box => box.scrollWidth > box.clientWidth);
  const blown = [...document.images].filter(image => image.getBoundingClientRect().width > image.naturalWidth / 2 + 1);
  const wide = document.documentElement.scrollWidth > innerWidth ? [document.documentElement] : [];
  return [...beyond, ...cut, ...blown, ...wide].map(name);
}
