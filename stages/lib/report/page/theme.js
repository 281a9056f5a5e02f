// A button in the place <span class="theme"> that shows the page dark or light, whatever the system asks for; nothing is stored.
{
  const root = document.documentElement, button = document.createElement("button");
  const dark = () => (root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const say = () => (button.textContent = dark() ? "Light page" : "Dark page");
  button.type = "button";
  button.addEventListener("click", () => {
    root.style.colorScheme = dark() ? "light" : "dark";
    say();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);
  say();
  document.querySelector(".theme").append(button);
}
