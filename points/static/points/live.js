// Nothing here is needed: it shows sooner what the pages show anyway.
"use strict";

for (const form of document.querySelectorAll("form[data-price]")) {
  const output = form.querySelector("output");
  let asked = 0;
  const show = async () => {
    const turn = ++asked;
    const query = new URLSearchParams({ product: form.elements.product.value, count: form.elements.count.value });
    const answer = await fetch(`${form.dataset.price}?${query}`).catch(() => null);
    const points = answer && answer.ok && !answer.redirected ? await answer.text() : "";
    // An answer that was overtaken says nothing any more.
    if (turn === asked) output.textContent = points && `${points} ${output.dataset.words}`;
  };
  form.elements.count.addEventListener("input", show);
  show();
}

for (const place of document.querySelectorAll("[data-balance]")) {
  place.querySelector("a").addEventListener("click", async (event) => {
    event.preventDefault();
    const answer = await fetch(place.dataset.balance).catch(() => null);
    const page = new DOMParser().parseFromString(answer && answer.ok ? await answer.text() : "", "text/html");
    const said = page.getElementById("balance");
    if (!said) { window.location = place.dataset.balance; return; }
    place.setAttribute("role", "status");
    place.textContent = said.textContent;
  });
}

for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", () => { form.querySelector("button").disabled = true; });
}
